"""Finding free TCP ports on the loopback interface."""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
#: Below Linux' ephemeral range (32768-60999): a port from inside it can be taken by any outgoing connection
#: while a service restarts, even by a client that connects to itself while it retries.
FIRST, LAST = 20_000, 32_000
ATTEMPTS = 200


class NoFreePortError(Exception):
    """No port could be bound; look at ``ss -ltn`` for what holds them."""

    def __init__(self) -> None:
        super().__init__(f"No free TCP port found on {LOOPBACK} in {FIRST}-{LAST} after {ATTEMPTS} attempts")


class PortTakenError(Exception):
    """Another process listens where a service of ours must: it would be mistaken for ours."""

    def __init__(self, port: int) -> None:
        self.port = port
        super().__init__(f"Port {port} on {LOOPBACK} is taken by another process: stop that one, or choose another port")


def require_free(port: int) -> None:
    """Call before a service starts on ``port``.

    Raises:
        PortTakenError: a server holds it.
    """
    if not is_free(port):
        raise PortTakenError(port)


def is_free(port: int) -> bool:
    """Whether a server could bind ``port`` right now. Nothing reserves it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """``count`` different free ports. Random, so that two test runs at the same time rarely meet.

    Raises:
        NoFreePortError: they are all taken.
    """
    found: list[int] = []
    for _ in range(ATTEMPTS):
        if len(found) == count:
            return found
        port = random.randrange(FIRST, LAST)  # noqa: S311  no secret hangs on it
        if port not in found and is_free(port):
            found.append(port)
    raise NoFreePortError

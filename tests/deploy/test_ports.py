"""Laws of the port finder."""

from __future__ import annotations

import socket

import pytest

from deploy.local import ports


def test_ports_are_different_bindable_and_outside_the_ephemeral_range() -> None:
    found = ports.free_ports(20)

    assert len(set(found)) == 20
    assert all(ports.FIRST <= port < ports.LAST for port in found)
    assert all(ports.is_free(port) for port in found)


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as server:
        port = server.getsockname()[1]

        assert not ports.is_free(port)
        with pytest.raises(ports.PortTakenError, match=f"Port {port} on 127.0.0.1 is taken"):
            ports.require_free(port)

    ports.require_free(port)


def test_a_full_range_is_an_error_and_not_an_endless_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)

    with pytest.raises(ports.NoFreePortError, match="No free TCP port"):
        ports.free_ports(1)

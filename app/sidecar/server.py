"""uvicorn inside a loop that is not its own.

uvicorn would install signal handlers, choose an event loop, configure logging and exit the process when it
cannot bind; here all four belong to the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

STOP_TIMEOUT_S = 5
PORT_SETTING = "VELTRIX_SIDECAR_PORT"


class SidecarBindError(Exception):
    """The sidecar's address cannot be used; the message says what to set. Start again after that."""

    def __init__(self, host: str, port: int, error: OSError, port_setting: str = PORT_SETTING) -> None:
        self.host, self.port = host, port
        if error.errno == errno.EADDRINUSE:
            super().__init__(f"port {port} is in use: set {port_setting}")
        elif error.errno == errno.EACCES:
            super().__init__(f"port {port} needs privileges: set {port_setting} above 1023")
        else:
            super().__init__(f"cannot listen on {host}:{port} ({error.strerror or error}): set VELTRIX_SIDECAR_HOST")


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone and says when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()


class SidecarServer:
    """Serves ``app`` on ``host:port`` in the running loop. Port 0 takes a free one; ``port_setting`` is where it comes from."""

    def __init__(self, app: ASGIApp, host: str, port: int, port_setting: str = PORT_SETTING) -> None:
        self._app, self._host, self._port, self._port_setting = app, host, port, port_setting
        self._socket: socket.socket | None = None
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port it listens on; the wanted one (0: any) before ``bind``."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL for people and tools on this machine."""
        return f"http://[{self._host}]:{self.port}" if ":" in self._host else f"http://{self._host}:{self.port}"

    async def bind(self) -> None:
        """Take the port, so that a conflict is found before anything else starts.

        Raises:
            SidecarBindError: the address cannot be used.
        """
        try:
            found = await asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            family, *_, address = found[0]
            self._socket = socket.create_server((str(address[0]), self._port), family=family)
        except OSError as exc:
            raise SidecarBindError(self._host, self._port, exc, self._port_setting) from exc
        self._port = int(self._socket.getsockname()[1])
        self._server = _Server(self._config())

    async def serve(self) -> None:
        """Answer until ``stop``; ``bind`` comes first. Returns when all connections are closed."""
        if self._server is None or self._socket is None:
            raise RuntimeError("bind() comes before serve()")
        await self._server.serve(sockets=[self._socket])

    async def accepting(self) -> None:
        """Wait until requests are answered. ``bind`` comes first; ``serve`` must be running."""
        if self._server is None:
            raise RuntimeError("bind() comes before accepting()")
        await self._server.accepting.wait()

    def stop(self) -> None:
        """Make ``serve`` return: finish requests for up to ``STOP_TIMEOUT_S``, take no new ones."""
        if self._server is not None:
            self._server.should_exit = True

    def close(self) -> None:
        """Free the port, whether ``serve`` ever ran or not."""
        if self._socket is not None:
            self._socket.close()

    def _config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            loop="none",  # the worker's loop runs already
            lifespan="off",
            ws="none",
            log_config=None,  # telemetry.logs owns logging
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )

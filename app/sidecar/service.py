"""The sidecar as a part of the worker: give it to the worker as its first dependency.

The worker starts its dependencies in order and stops them in reverse, so the sidecar answers during recovery
and until the stream has stopped. If serving fails, the worker crashes with the reason.
"""

from __future__ import annotations

import asyncio
from typing import Any

import mode
import structlog
from starlette.types import ASGIApp

from app.sidecar.server import STOP_TIMEOUT_S, SidecarServer

log = structlog.get_logger(__name__)


class SidecarService(mode.Service):
    """Runs the ASGI ``app`` on ``host:port`` in the worker's loop."""

    def __init__(self, app: ASGIApp, host: str, port: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._http = SidecarServer(app, host, port)
        self._serving: asyncio.Future[Any] | None = None

    @property
    def port(self) -> int:
        """The bound port; the configured one (0: any) before the start."""
        return self._http.port

    @property
    def url(self) -> str:
        """Where it answers."""
        return self._http.url

    async def on_start(self) -> None:
        """Bind and answer. SidecarBindError (port in use) stops the worker."""
        await self._http.bind()
        self._serving = self.add_future(self._http.serve())
        accepting = asyncio.ensure_future(self._http.accepting())
        await asyncio.wait({accepting, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        if not self._serving.done():  # else it failed, and the worker is about to say why
            log.info("sidecar_started", url=self.url)

    async def on_stop(self) -> None:
        """Answer what is under way, then close the port."""
        self._http.stop()
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=STOP_TIMEOUT_S + 1)
        self._http.close()

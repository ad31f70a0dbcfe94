"""Limits and headers around every request, as plain ASGI: the sidecar shares its loop with the pipeline.

A few requests at a time, each short and small; more is refused at once rather than queued. Health and metrics
are never refused for load: a busy worker must still be able to say that it is alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.sidecar.problems import SECURITY_HEADERS, Problem

MAX_BODY_BYTES = 64 * 1024
MAX_REQUESTS = 32
TIMEOUT_S = 15.0
UNLIMITED = frozenset({"/livez", "/readyz", "/health/live", "/health/ready", "/metrics"})
#: They have no end, and a bound of their own.
ENDLESS = frozenset({"/api/v1/dlq/records/stream"})
UNBOUNDED = UNLIMITED | ENDLESS
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
#: The interactive documentation loads its script and style from this one place.
DOCS_PATHS = frozenset({"/docs"})
DOCS_POLICY = (
    "default-src 'none'; script-src https://cdn.jsdelivr.net 'unsafe-inline'; style-src https://cdn.jsdelivr.net; "
    "img-src https://fastapi.tiangolo.com data:; connect-src 'self'; frame-ancestors 'none'"
)


class SecurityHeaders:
    """Adds the security headers to every answer that has not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if scope["path"] in DOCS_PATHS:
                    headers["content-security-policy"] = DOCS_POLICY
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def host_name(host: str) -> str:
    """The name in a Host header: without port and brackets, in lower case."""
    return (host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]).lower()


class HostCheck:
    """Refuses requests for another host name than ``allowed``.

    On loopback there is no login; without this check any web page in a browser on the same machine could read
    customer data by pointing its own name at 127.0.0.1 (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, allowed: Container[str]) -> None:
        self.app = app
        self.allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and host_name(Headers(scope=scope).get("host", "")) not in self.allowed:
            detail = "This sidecar answers loopback names only. Behind a proxy set VELTRIX_SIDECAR_ALLOW_REMOTE=true."
            await Problem(421, "misdirected-request", detail).response(scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)


class SameOrigin:
    """Refuses requests that change something when a web page of another origin sent them.

    A browser sends simple POSTs anywhere without asking; on loopback there is no login that would stop them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and self._is_foreign(Headers(scope=scope)):
            detail = "Requests that change something are answered to this sidecar's own pages and to programs only."
            await Problem(403, "cross-origin-request", detail).response(scope["path"])(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")
        origin = headers.get("origin")  # programs send neither
        return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


class Limits:
    """Bounds requests at a time, seconds a request, and bytes a body."""

    def __init__(
        self, app: ASGIApp, requests: int = MAX_REQUESTS, timeout_s: float = TIMEOUT_S, body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.app = app
        self.requests, self.timeout_s, self.body_bytes = requests, timeout_s, body_bytes
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNBOUNDED:
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal.response(scope["path"])(scope, receive, send)
            return
        self._running += 1
        try:
            await self._within_timeout(scope, self._bounded(receive), send)
        finally:
            self._running -= 1

    def _refusal(self, scope: Scope) -> Problem | None:
        if self._running >= self.requests:
            detail = f"{self.requests} requests are being answered already. Try again."
            return Problem(503, "too-many-requests-at-once", detail, headers={"retry-after": "1"})
        length = Headers(scope=scope).get("content-length", "0")
        return self._too_large() if length.isdecimal() and int(length) > self.body_bytes else None

    def _too_large(self) -> Problem:
        return Problem(413, "body-too-large", f"A request body may have {self.body_bytes} bytes.")

    def _bounded(self, receive: Receive) -> Receive:
        """Counts a body sent without a length; ``Problem`` is raised inside the application and answered there."""
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.body_bytes:
                raise self._too_large()
            return message

        return receive_some

    async def _within_timeout(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(self.timeout_s) as limit:
                await self.app(scope, receive, send_noting)
        except TimeoutError:
            if started or not limit.expired():
                raise
            detail = f"No answer within {self.timeout_s:g} s."
            await Problem(504, "timeout", detail).response(scope["path"])(scope, receive, send)

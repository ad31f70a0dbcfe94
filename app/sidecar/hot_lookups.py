"""The one question that is asked a thousand times a second, answered ahead of routing, validation and middleware.

``GET /api/v1/lookups/users/<id>`` costs less than half of the CPU here of what it costs on the way through them (docs/benchmarks.md).
A question with conditions, and one that cannot be answered, goes that way and is answered there.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.lookups.api import InvalidLookupKey, LookupReader, LookupUnavailable, UnknownLookup
from app.sidecar.lookup_answers import MAX_ID_CHARS, etag, unknown_key, user_body, user_key
from app.sidecar.middleware import host_name
from app.sidecar.problems import SECURITY_HEADERS

PREFIX: Final = "/api/v1/lookups/users/"
MAX_REQUESTS: Final = 512
_SAFE_HEADERS: Final = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class HotLookups:
    """Answers plain questions for one user; ``app`` answers everything else.

    Args:
        hosts: names by which this process may be called, None: any (see ``HostCheck``).
        requests: beyond this many at a time the others are for ``app``, which refuses what is too much.
    """

    def __init__(self, app: ASGIApp, reader: LookupReader, hosts: Container[str] | None, requests: int = MAX_REQUESTS) -> None:
        self._app, self._reader, self._hosts, self._requests = app, reader, hosts, requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._answer(scope) if self._is_plain(scope) else self._app
        await answer(scope, receive, send)

    def _is_plain(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] != "GET" or scope["query_string"] or self._running >= self._requests:
            return False
        path: str = scope["path"]
        if not path.startswith(PREFIX) or not len(PREFIX) < len(path) <= len(PREFIX) + MAX_ID_CHARS:
            return False
        headers: dict[bytes, bytes] = dict(scope["headers"])
        if b"if-none-match" in headers:
            return False
        return self._hosts is None or host_name(headers.get(b"host", b"").decode("latin-1")) in self._hosts

    async def _answer(self, scope: Scope) -> ASGIApp:
        """What answers: the value, that there is none, or the application."""
        path: str = scope["path"]
        key = user_key(path[len(PREFIX) :])
        self._running += 1
        try:
            user, session = await self._reader.read_many([("users", key), ("sessions", key)])
        except (UnknownLookup, InvalidLookupKey):
            return self._app
        finally:
            self._running -= 1
        if user is None:
            return unknown_key("users", key).response(path)
        if isinstance(user, LookupUnavailable):
            return self._app
        return _Value(orjson.dumps(user_body(user, session)), etag([user, session]).encode())


class _Value:
    """200 with a body and its ETag."""

    __slots__ = ("_body", "_tag")

    def __init__(self, body: bytes, tag: bytes) -> None:
        self._body, self._tag = body, tag

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = [(b"etag", self._tag), (b"content-length", b"%d" % len(self._body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": own + _SAFE_HEADERS})
        await send({"type": "http.response.body", "body": self._body})

"""The one question that is asked a thousand times a second, answered ahead of routing, validation and middleware.

``GET /api/v1/lookups/users/<id>`` costs 0.1 ms of CPU here and 0.5 ms on the way through them (docs/benchmarks.md). Only
a success is answered; a question with conditions, and whatever else can come of one, goes that way and is answered there.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.lookups.api import InvalidLookupKey, LookupAnswer, LookupReader, UnknownLookup
from app.sidecar.lookup_answers import etag, user_body, user_key
from app.sidecar.middleware import host_name
from app.sidecar.problems import SECURITY_HEADERS

PREFIX: Final = "/api/v1/lookups/users/"
MAX_ID_CHARS: Final = 1024
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
        found = await self._answer(scope) if self._is_plain(scope) else None
        if found is None:
            await self._app(scope, receive, send)
            return
        body, tag = found
        headers = [
            (b"etag", tag),
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *_SAFE_HEADERS,
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

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

    async def _answer(self, scope: Scope) -> tuple[bytes, bytes] | None:
        """Body and ETag; None when it is not a success."""
        key = user_key(scope["path"][len(PREFIX) :])
        self._running += 1
        try:
            user, session = await self._reader.read_many([("users", key), ("sessions", key)])
        except (UnknownLookup, InvalidLookupKey):
            return None
        finally:
            self._running -= 1
        if not isinstance(user, LookupAnswer):
            return None
        return orjson.dumps(user_body(user, session)), etag([user, session]).encode()

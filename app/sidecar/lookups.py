"""Hot reads: the newest known value of a key, with a stamp that says how fresh it is."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.domain.trending import MOST, Trending, merge
from app.lookups.api import LookupAnswer, LookupReader, LookupUnavailable, UnknownLookup
from app.sidecar.lookup_answers import (
    MAX_ID_CHARS,
    MOST_WAIT_MS,
    Freshness,
    body_of,
    etag,
    parse_min_offsets,
    read_fresh,
    refuse_unavailable,
    respond,
    unavailable,
    unknown_key,
    user_body,
    user_key,
)
from app.sidecar.problems import Problem

MOST_IDS: Final = 500

KeyId = Annotated[str, Path(alias="id", max_length=MAX_ID_CHARS)]
IfNoneMatch = Annotated[str | None, Header()]
MinOffset = Annotated[
    list[str] | None, Query(description="`<partition>:<offset>` of a source record that the answer must contain", max_length=100)
]
WaitMs = Annotated[int, Query(ge=0, le=MOST_WAIT_MS, description="How long to wait for it before 409")]


class LookupBody(BaseModel):
    """The value of one key."""

    key: str
    value: Any
    freshness: Freshness


class UsersRequest(BaseModel):
    """Ids as in the path of a single look-up."""

    ids: list[Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARS)]] = Field(
        min_length=1, max_length=MOST_IDS, examples=[["42", "a:x"]]
    )


def lookups_router(reader: LookupReader) -> APIRouter:
    """``/lookups``."""
    router = APIRouter(prefix="/lookups", tags=["lookups"])
    _add_users(router, reader)
    _add_merged(router, reader)

    # No response model: validating what we just built would cost more than the read.
    @router.get("/{resource}/{id:path}", response_model=None, responses={200: {"model": LookupBody}})
    async def lookup(
        resource: str,
        key_id: KeyId,
        if_none_match: IfNoneMatch = None,
        min_offset: MinOffset = None,
        wait_ms: WaitMs = MOST_WAIT_MS,
    ) -> Response:
        """A resource of an agent, such as `items`: `id` is a product id; of users, `u:<userId>`, `a:<anonymousId>` or a user id."""
        key = key_of(reader, resource, key_id)
        (found,) = await read_fresh(reader, [(resource, key)], parse_min_offsets(min_offset or ()), wait_ms)
        answer = _known(refuse_unavailable(found), resource, key)
        return respond(body_of(answer), etag([answer]), if_none_match)

    return router


def _add_users(router: APIRouter, reader: LookupReader) -> None:
    @router.get("/users/{id:path}", response_model=None, responses={200: {"model": LookupBody}})
    async def user(
        key_id: KeyId,
        if_none_match: IfNoneMatch = None,
        min_offset: MinOffset = None,
        wait_ms: WaitMs = MOST_WAIT_MS,
    ) -> Response:
        """A user's profile, and the session that is open. `id` is `u:<userId>`, `a:<anonymousId>`, or a user id. 503 when nobody here can tell."""
        key = user_key(key_id)
        found, session = await read_fresh(reader, [("users", key), ("sessions", key)], parse_min_offsets(min_offset or ()), wait_ms)
        answer = _known(refuse_unavailable(found), "users", key)
        return respond(user_body(answer, session), etag([answer, session]), if_none_match)

    @router.post("/users:batch", response_model=None)
    async def users(request: UsersRequest, min_offset: MinOffset = None, wait_ms: WaitMs = MOST_WAIT_MS) -> Response:
        """Up to 500 users in one round trip, each as a single one is answered, in the order of the ids; who is unknown, and whom nobody here can tell of."""
        keys = [user_key(key_id) for key_id in request.ids]
        questions = [(resource, key) for key in keys for resource in ("users", "sessions")]
        answers = await read_fresh(reader, questions, parse_min_offsets(min_offset or ()), wait_ms)
        asked = list(zip(keys, answers[::2], answers[1::2], strict=True))
        return JSONResponse({
            "users": [user_body(answer, session) for _, answer, session in asked if isinstance(answer, LookupAnswer)],
            "unknown": [key for key, answer, _ in asked if answer is None],
            "unavailable": [key for key, answer, _ in asked if isinstance(answer, LookupUnavailable)],
        })  # fmt: skip


def _add_merged(router: APIRouter, reader: LookupReader) -> None:
    @router.get("/trending", response_model=None)
    async def trending(
        window: Annotated[str, Query(max_length=64, description="Name of a window declaration; `5m` is `item_5m`")] = "5m",
        limit: Annotated[int, Query(ge=1, le=MOST)] = 20,
    ) -> Response:
        """The items that lead in the newest closed windows, of all partitions together."""
        name = window if "_" in window else f"item_{window}"
        parts, missing = await _of_all(reader, "trending", name)
        top = merge([part for part in parts if isinstance(part, Trending)], limit)
        is_known = bool(parts)
        return JSONResponse({
            "window": name,
            "start_ms": top.start_ms if is_known else None,
            "end_ms": top.end_ms if is_known else None,
            "items": [{"key": key, "score": score} for key, score in top.leaders],
            "partial": bool(missing),
            "missing_partitions": missing,
        })  # fmt: skip

    @router.get("/totals", response_model=None)
    async def totals() -> Response:
        """Unique valid events by name since the first one, of all partitions together."""
        parts, missing = await _of_all(reader, "totals", "all")
        names: dict[str, int] = {}
        for part in parts:
            for name, count in part.items():
                names[name] = names.get(name, 0) + count
        return JSONResponse({"totals": dict(sorted(names.items())), "partial": bool(missing), "missing_partitions": missing})


async def _of_all(reader: LookupReader, resource: str, key: str) -> tuple[list[Any], list[int]]:
    """Values of those partitions that have one, and the numbers of those that nobody can tell of.

    Raises:
        Problem: nobody can tell of any.
    """
    try:
        answers = await reader.read_partitions(resource, key)
    except UnknownLookup as exc:
        raise Problem(404, "unknown-lookup", str(exc)) from exc
    refusals = [answer for answer in answers if isinstance(answer, LookupUnavailable)]
    if len(refusals) == len(answers):
        raise unavailable(refusals)
    return [answer.value for answer in answers if isinstance(answer, LookupAnswer)], [each.partition for each in refusals]


def key_of(reader: LookupReader, resource: str, key_id: str) -> str:
    """The key of an id of this resource.

    Raises:
        Problem: 404, nobody declares this resource.
    """
    try:
        return user_key(key_id) if reader.keys_of(resource) == "user" else key_id
    except UnknownLookup as exc:
        raise Problem(404, "unknown-lookup", str(exc)) from exc


def _known(answer: LookupAnswer | None, resource: str, key: str) -> LookupAnswer:
    if answer is None:
        raise unknown_key(resource, key)
    return answer

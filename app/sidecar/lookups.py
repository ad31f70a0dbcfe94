"""Hot reads: the newest known value of one key, with a stamp that says how fresh it is."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.lookups.api import InvalidLookupKey, LookupAnswer, LookupReader, LookupUnavailable, UnknownLookup
from app.sidecar.problems import Problem

#: What a state key starts with; an id without it is a user id.
KEY_PREFIXES = ("u:", "a:")


class Freshness(BaseModel):
    """How fresh a value is. Offsets are of the changelog and the source of that partition."""

    source: str
    """`redis`, or `table` when Redis does not answer and this worker owns the partition"""
    partition: int
    changelog_offset: int
    """The value is the key's newest as of here"""
    source_offset: int | None
    """The source record it comes from; null when unknown"""
    covered_offset: int
    """All changes of the partition up to here are in the copy that answered"""
    covered_at_ms: int | None
    """When that was written to Redis, epoch ms; null from the table"""


class LookupBody(BaseModel):
    """The value of one key."""

    key: str
    value: Any
    freshness: Freshness


def lookups_router(reader: LookupReader) -> APIRouter:
    """``/lookups/{resource}/{id}``."""
    router = APIRouter(prefix="/lookups", tags=["lookups"])

    # No response model: validating what we just built would cost more than the read.
    @router.get("/{resource}/{id:path}", response_model=None, responses={200: {"model": LookupBody}})
    async def lookup(resource: str, key_id: Annotated[str, Path(alias="id", max_length=1024)]) -> JSONResponse:
        """`id` is `u:<userId>`, `a:<anonymousId>`, or a user id as it is. 503 when nobody here can tell."""
        key = key_id if key_id.startswith(KEY_PREFIXES) else KEY_PREFIXES[0] + key_id
        answer = await _read(reader, resource, key)
        if answer is None:
            raise Problem(404, "unknown-key", f"No {resource} has the key {key}.", {"key": key})
        return JSONResponse({"key": answer.key, "value": answer.value, "freshness": _freshness(answer)})

    return router


async def _read(reader: LookupReader, resource: str, key: str) -> LookupAnswer | None:
    try:
        return await reader.read(resource, key)
    except UnknownLookup as exc:
        raise Problem(404, "unknown-lookup", str(exc)) from exc
    except InvalidLookupKey as exc:
        raise Problem(422, "invalid-request", str(exc)) from exc
    except LookupUnavailable as exc:
        extra = {"reason": exc.reason, "partition": exc.partition}
        raise Problem(503, "lookup-unavailable", str(exc), extra, {"retry-after": "1"}) from exc


def _freshness(answer: LookupAnswer) -> dict[str, Any]:
    return {
        "source": answer.source,
        "partition": answer.partition,
        "changelog_offset": answer.changelog_offset,
        "source_offset": answer.source_offset if answer.source_offset >= 0 else None,
        "covered_offset": answer.covered_offset,
        "covered_at_ms": answer.covered_at_ms,
    }

"""What answers to lookups have in common: freshness, ETag, waiting for one's own write, honest refusals."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from fastapi import Response
from pydantic import BaseModel

from app.lookups.api import Found, InvalidLookupKey, LookupAnswer, LookupReader, LookupUnavailable, UnknownLookup
from app.sidecar.problems import Problem

#: What a state key of a user starts with; an id without it is a user id.
KEY_PREFIXES: Final = ("u:", "a:")
#: A longer id of a key is refused unread.
MAX_ID_CHARS: Final = 1024
#: Between two looks while a caller waits for its own write, seconds.
LOOK_S: Final = 0.02
#: Longest wait for it, ms.
MOST_WAIT_MS: Final = 1000
_MIN_OFFSET: Final = re.compile(r"(\d{1,4}):(\d{1,18})")

Question = tuple[str, str]
"""Resource and key"""


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
    covered_source_offset: int | None
    """So is everything that came of source records up to here; null when unknown"""
    covered_at_ms: int | None
    """When that was written to Redis, epoch ms; null from the table"""
    event_time_ms: int | None
    """Event time of the latest event in the value, where the value says it"""
    staleness_ms: int
    """How long ago the copy was last known to be complete; 0 from the table"""


def freshness(answer: LookupAnswer) -> dict[str, Any]:
    """Members as of :class:`Freshness`."""
    now_ms = time.time_ns() // 1_000_000
    value = answer.value
    return {
        "source": answer.source,
        "partition": answer.partition,
        "changelog_offset": answer.changelog_offset,
        "source_offset": answer.source_offset if answer.source_offset >= 0 else None,
        "covered_offset": answer.covered_offset,
        "covered_source_offset": answer.covered_source_offset if answer.covered_source_offset >= 0 else None,
        "covered_at_ms": answer.covered_at_ms,
        "event_time_ms": value.get("last_seen_ms") if isinstance(value, dict) else None,
        "staleness_ms": 0 if answer.covered_at_ms is None else max(0, now_ms - answer.covered_at_ms),
    }


def etag(answers: Sequence[Found]) -> str:
    """Changes with every write to one of the keys: made of their stamps, not of their content."""
    stamps = [f"{a.resource}.{a.partition}.{a.changelog_offset}.{a.source[0]}" for a in answers if isinstance(a, LookupAnswer)]
    return f'"{"-".join(stamps)}"'


def user_key(key_id: str) -> str:
    """An id without a kind is a user id."""
    return key_id if key_id.startswith(KEY_PREFIXES) else KEY_PREFIXES[0] + key_id


def body_of(answer: LookupAnswer) -> dict[str, Any]:
    """Members as of ``LookupBody``."""
    return {"key": answer.key, "value": answer.value, "freshness": freshness(answer)}


def user_body(user: LookupAnswer, session: Found) -> dict[str, Any]:
    """A profile with the session that is open; null while nobody can tell of one."""
    body = body_of(user)
    body["value"] = body["value"] | {"session": session.value if isinstance(session, LookupAnswer) else None}
    return body


def respond(body: dict[str, Any], tag: str, if_none_match: str | None) -> Response:
    """The answer, or 304 when the caller has it."""
    known = {known.strip().removeprefix("W/") for known in (if_none_match or "").split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers={"etag": tag})
    return Response(orjson.dumps(body), media_type="application/json", headers={"etag": tag})


def parse_min_offsets(texts: Sequence[str]) -> dict[int, int]:
    """``P:O``: source partition and offset that must be in the answer.

    Raises:
        Problem: it is written in another way.
    """
    found: dict[int, int] = {}
    for text in texts:
        match = _MIN_OFFSET.fullmatch(text)
        if match is None:
            raise Problem(
                422, "invalid-request", f"min_offset {text!r} is not <partition>:<offset>, as `veltrix send` prints them."
            )
        found[int(match[1])] = max(int(match[2]), found.get(int(match[1]), 0))
    return found


async def read_fresh(reader: LookupReader, questions: Sequence[Question], wanted: Mapping[int, int], wait_ms: int) -> list[Found]:
    """Answers that contain the source records that the caller knows of; waits for them if need be.

    Raises:
        Problem: 404 or 422 for a wrong question, 409 when the records are not there in time.
    """
    deadline = time.monotonic() + min(wait_ms, MOST_WAIT_MS) / 1000
    while True:
        answers = await _read(reader, questions)
        behind = _behind(answers, wanted)
        if behind is None:
            return answers
        if time.monotonic() >= deadline:
            raise behind
        await asyncio.sleep(LOOK_S)


def _behind(answers: Sequence[Found], wanted: Mapping[int, int]) -> Problem | None:
    """What is still missing; None: nothing."""
    if not wanted:
        return None
    known = [answer for answer in answers if isinstance(answer, LookupAnswer)]
    strange = wanted.keys() - {answer.partition for answer in known} if known else set()
    if strange:
        return Problem(422, "invalid-request", f"The keys are not of partition {min(strange)}, which min_offset names.")
    covered = {answer.partition: answer.covered_source_offset for answer in known}
    for partition, offset in wanted.items():
        if covered.get(partition, -1) < offset:
            detail = f"Source offset {offset} of partition {partition} is not in the answer yet. Ask again."
            extra = {"partition": partition, "wanted": offset, "covered": covered.get(partition)}
            return Problem(409, "not-yet", detail, extra, {"retry-after": "1"})
    return None


async def _read(reader: LookupReader, questions: Sequence[Question]) -> list[Found]:
    try:
        return await reader.read_many(questions)
    except UnknownLookup as exc:
        raise Problem(404, "unknown-lookup", str(exc)) from exc
    except InvalidLookupKey as exc:
        raise Problem(422, "invalid-request", str(exc)) from exc


def refuse_unavailable(answer: Found) -> LookupAnswer | None:
    """The answer, if it can be given.

    Raises:
        Problem: 503, nobody here can tell.
    """
    if isinstance(answer, LookupUnavailable):
        raise unavailable([answer])
    return answer


def unknown_key(resource: str, key: str) -> Problem:
    """404 for a key that no record has brought."""
    return Problem(404, "unknown-key", f"No {resource} has the key {key}.", {"key": key})


def unavailable(refusals: Sequence[LookupUnavailable]) -> Problem:
    """503 for partitions that neither Redis nor this worker can tell of."""
    first = refusals[0]
    extra = {"reason": first.reason, "partition": first.partition, "partitions": [each.partition for each in refusals]}
    return Problem(503, "lookup-unavailable", str(first), extra, {"retry-after": "1"})

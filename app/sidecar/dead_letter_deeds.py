"""Doing something about dead letters over HTTP: ``veltrix admin`` alone has these routes.

What each needs: see :mod:`app.sidecar.access`.
"""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Final

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.dead_letters.api import Filters, Group, UnknownRecord
from app.dead_letters.desk import Conflict, Desk
from app.dead_letters.headers import rfc3339
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.states import LetterState
from app.dead_letters.json_patch import PatchFailed, apply_patch
from app.dead_letters.reader import MAX_LIMIT
from app.dead_letters.replay import NotReplayable
from app.domain.hindsight import Touched
from app.sidecar.access import ADMIN, OPERATOR, Access, Asker, identified, require
from app.sidecar.dead_letter_requests import (
    Discard,
    Fingerprint,
    GroupChange,
    IdempotencyKey,
    IfMatch,
    QueueName,
    RecordId,
    Replay,
    StatusName,
    Try,
    TryMany,
)  # fmt: skip
from app.sidecar.dead_letter_trials import Validate, Verdict, Verdicts, changes
from app.sidecar.dead_letters import read_problems
from app.sidecar.problems import Problem

_ETAG: Final = re.compile(r'^(?:W/)?"?(\d{1,9})"?$')


class GroupView(BaseModel):
    """One kind of failure: what 40,000 dead letters have in common. `counts` are by status."""

    queue: str
    fingerprint: str
    count: int
    counts: dict[str, int]
    first_failed_at: str
    last_failed_at: str
    first_version: str | None
    stage: str | None
    reason: str | None
    exception_class: str | None
    message: str | None
    sample: str | None
    note: str | None
    owner: str | None
    muted_until: str | None


class GroupsView(BaseModel):
    """The largest first."""

    groups: list[GroupView]


class StateView(BaseModel):
    """What was done about a record. `version` is its ETag."""

    id: str
    status: str
    by: str
    at: str
    job: str | None
    note: str | None
    version: int


def groups_router(index: DeadLetterIndex, desk: Desk, validate: Validate, access: Access, default_queue: str) -> APIRouter:
    """``/dlq/groups``."""
    router = APIRouter(prefix="/dlq", tags=["dead letters"], dependencies=[identified(access)])

    @router.get("/groups")
    async def groups(queue: QueueName = None, status: StatusName = None) -> GroupsView:
        """Dead letters by kind of failure; with `status` only such with letters of that status."""
        with problems():
            return GroupsView(groups=[group_view(group) for group in await index.groups(queue or default_queue, status)])

    @router.patch("/groups/{fingerprint}", dependencies=[OPERATOR])
    async def annotate(fingerprint: Fingerprint, change: GroupChange, caller: Asker, queue: QueueName = None) -> GroupView:
        """Say what is known about it, whose it is, until when nobody needs to hear of it."""
        changes = change.model_dump(exclude_unset=True)
        if changes.get("muted_until") is not None:
            changes["muted_until"] = rfc3339(int(changes["muted_until"].timestamp() * 1000))
        with problems():
            await desk.annotate(queue or default_queue, fingerprint, caller.name, changes)
            found = await index.groups(queue or default_queue)
        return next(group_view(group) for group in found if group.fingerprint == fingerprint)

    @router.post("/groups/{fingerprint}/validate", dependencies=[OPERATOR])
    async def try_many(fingerprint: Fingerprint, request: TryMany, queue: QueueName = None) -> Verdicts:
        """Would they pass now? Asked before they are sent again."""
        with problems():
            name = queue or default_queue
            return await _verdicts(index, validate, name, fingerprint, request)

    return router


def deeds_router(index: DeadLetterIndex, desk: Desk, validate: Validate, access: Access) -> APIRouter:
    """What can be done about one record."""
    router = APIRouter(prefix="/dlq", tags=["dead letters"], dependencies=[identified(access)])

    @router.get("/records/{record_id}/state")
    async def state(record_id: RecordId, response: Response) -> StateView:
        """What was done about it so far."""
        with problems():
            return _state(record_id, await desk.state(record_id), response)

    @router.post("/records/{record_id}/validate", dependencies=[OPERATOR])
    async def try_it(record_id: RecordId, request: Try) -> Verdict:
        """Would it pass now? The deployed rules, and no effect of any kind."""
        with problems():
            letter = await index.record(record_id)
            if letter is None:
                raise UnknownRecord.letter(record_id)
            return Verdict.of(await validate(letter, _bytes(request.value_base64)))

    @router.post("/records/{record_id}/replay", dependencies=[OPERATOR])
    async def replay(
        record_id: RecordId,
        request: Replay,
        response: Response,
        caller: Asker,
        if_match: IfMatch = None,
        key: IdempotencyKey = None,
    ) -> StateView:
        """Send it again, to where it came from, with its key, timestamp and headers. Other bytes, or by force: for `admin`."""
        if request.value_base64 is not None or request.force:
            require(caller, "admin")
        value, expected = _bytes(request.value_base64), _version(if_match)
        with problems():
            done = await desk.replay(
                record_id, caller.name, request.reason, value=value, force=request.force, expected=expected, request=key
            )
        return _state(record_id, done, response)

    @router.post("/records/{record_id}/discard", dependencies=[ADMIN])
    async def discard(
        record_id: RecordId,
        request: Discard,
        response: Response,
        caller: Asker,
        if_match: IfMatch = None,
        key: IdempotencyKey = None,
    ) -> StateView:
        """Nobody needs it. It stays in its topic until retention takes it."""
        with problems():
            done = await desk.discard(record_id, caller.name, request.reason, _version(if_match), key)
        return _state(record_id, done, response)

    return router


async def _verdicts(index: DeadLetterIndex, validate: Validate, queue: str, fingerprint: str, request: TryMany) -> Verdicts:
    wanted, cursor, left = Filters(fingerprint=fingerprint, status="pending"), None, request.limit
    passed, failed, touched = 0, Counter[str](), set[Touched]()
    while left:
        page = await index.records(queue, min(left, MAX_LIMIT), cursor, wanted)
        for letter in filter(None, await index.letters(page.records)):
            try:
                trial = await validate(letter, None if request.patch is None else apply_patch(letter.value, request.patch))
                failure = None if trial.passes else f"{trial.stage} {trial.reason}"
                touched.update(trial.touched)
            except (PatchFailed, NotReplayable) as exc:
                failure = type(exc).__name__
            passed += failure is None
            failed.update([failure] if failure else [])
        left, cursor = left - len(page.records), page.next_cursor
        if cursor is None:
            break
    return Verdicts(checked=passed + failed.total(), passed=passed, failed=dict(failed), results=changes(touched))


def group_view(group: Group) -> GroupView:
    """``group`` as JSON."""
    times = {"first_failed_at": rfc3339(group.first_failed_at_ms), "last_failed_at": rfc3339(group.last_failed_at_ms)}
    return GroupView.model_validate(asdict(group) | times | {"count": group.count})


@contextmanager
def problems() -> Iterator[None]:
    """What can go wrong with a dead letter, as an answer."""
    try:
        with read_problems():
            yield
    except Conflict as exc:
        raise Problem(409, "conflict", str(exc), {"version": exc.version}, {"etag": f'"{exc.version}"'}) from exc
    except NotReplayable as exc:
        raise Problem(422, exc.kind, str(exc)) from exc


def _state(record_id: str, state: LetterState, response: Response) -> StateView:
    response.headers["etag"] = f'"{state.version}"'
    return StateView.model_validate(msgspec.structs.asdict(state) | {"id": record_id})


def _version(if_match: str | None) -> int | None:
    if if_match is None or if_match == "*":
        return None
    found = _ETAG.match(if_match)
    if found is None:
        raise Problem(422, "invalid-request", 'if-match: the ETag of the record\'s state, such as "3"')
    return int(found.group(1))


def _bytes(text: str | None) -> bytes | None:
    try:
        return None if text is None else base64.b64decode(text, validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise Problem(422, "invalid-request", "value_base64: not base64") from None

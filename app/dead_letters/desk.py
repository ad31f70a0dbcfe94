"""Doing something about dead letters: discard, replay, note. Each deed is a record of the state topic and of the audit.

A deed is one transaction, and is answered when the local index has it, so whoever asks next sees it. Two people who do
something about the same letter take turns, and the second is told (``Conflict``) that it is not what he looked at any
more; two processes cannot write at all (``app.dead_letters.deeds``).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog

from app.dead_letters.api import DeadLetterRecord, DeadLettersUnavailable, UnknownRecord
from app.dead_letters.deeds import DeedWriter, Written
from app.dead_letters.headers import rfc3339
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.states import GroupNote, LetterState, Status, encode_state, group_key, letter_key
from app.dead_letters.replay import NotReplayable, Ours, release_of, replay_of, written

log = structlog.get_logger(__name__)

#: Nothing can be done about a letter in one of these any more, except by force.
DONE: Final = frozenset({"replaying", "replayed", "resolved", "discarded"})


class Conflict(Exception):
    """The letter is not as the caller saw it: somebody was quicker. Look again."""

    def __init__(self, message: str, version: int) -> None:
        super().__init__(message)
        self.version = version


@dataclass(frozen=True, slots=True)
class DeskTopics:
    """Where deeds are written, and what is ours."""

    state: str
    audit: str
    ours: Ours


class Desk:
    """Where people's deeds are carried out.

    Args:
        index: what is known.
        follower: tells when a deed is in the index.
        deeds: writes them.
        topics: where.
    """

    def __init__(
        self,
        index: DeadLetterIndex,
        follower: IndexFollower,
        deeds: DeedWriter,
        topics: DeskTopics,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._index, self._follower, self._deeds, self._topics, self._now_ms = index, follower, deeds, topics, now_ms
        self._locks: dict[str, asyncio.Lock] = {}

    async def state(self, record_id: str) -> LetterState:
        """What was done about a letter; a fresh one is ``pending``, version 0."""
        found = await self._index.ask(record_id, IndexReader.state)
        return found or LetterState("pending", version=0)

    async def discard(
        self, record_id: str, by: str, reason: str, expected: int | None = None, request: str | None = None
    ) -> LetterState:
        """Nobody needs it: it stays in its topic and leaves the list of what is to be done.

        A ``request`` (an Idempotency-Key) that is asked twice by one person is carried out once and answered twice.

        Raises:
            UnknownRecord, Conflict, UnknownQueue, InvalidQuery, DeadLettersUnavailable
        """
        async with self._turn(record_id):
            letter = await self._letter(record_id)
            if (known := await self._done_before(record_id, "discarded", by, request)) is not None:
                return known
            done = self._next(await self._open_state(record_id, expected), "discarded", by, note=reason, request=request)
            release = release_of(letter, self._topics.ours)
            audit = self._audit("discard", by, record_id, "discarded", reason)
            await self._carry_out(letter, done, audit, *filter(None, [release]))
        return done

    async def replay(
        self,
        record_id: str,
        by: str,
        reason: str,
        *,
        value: bytes | None = None,
        force: bool = False,
        expected: int | None = None,
        request: str | None = None,
    ) -> LetterState:
        """Send it again, in one transaction with its new state. ``request``: as of ``discard``.

        Raises:
            NotReplayable: see ``replay_of``; what was replayed too often becomes ``exhausted``.
            UnknownRecord, Conflict, UnknownQueue, InvalidQuery, DeadLettersUnavailable
        """
        job = f"single-{uuid.uuid4().hex[:12]}"
        async with self._turn(record_id):
            letter = await self._letter(record_id)
            if (known := await self._done_before(record_id, "replayed", by, request)) is not None:
                return known
            state = await self._open_state(record_id, expected, force=force)
            try:
                edit = None if value is None else job
                record = replay_of(letter, self._topics.ours, job, value=value, edit=edit, force=force)
            except NotReplayable as exc:
                if exc.kind == "exhausted":
                    audit = self._audit("replay", by, record_id, "exhausted", reason)
                    await self._carry_out(letter, self._next(state, "exhausted", by, note=str(exc)), audit)
                raise
            done = self._next(state, "replayed", by, job=job, note=reason, request=request)
            audit = self._audit("replay", by, record_id, "replayed", reason, job=job, edited=value is not None, force=force)
            await self._carry_out(letter, done, audit, written(record))
        return done

    async def annotate(self, queue: str, fingerprint: str, by: str, changes: Mapping[str, str | None]) -> GroupNote:
        """Change what is noted about a failure group; what ``changes`` does not name stays.

        Raises:
            UnknownRecord: there is no such group.
            UnknownQueue, DeadLettersUnavailable
        """
        subject = f"{queue}:{fingerprint}"
        async with self._turn(subject):
            group = next((group for group in await self._index.groups(queue) if group.fingerprint == fingerprint), None)
            if group is None:
                raise UnknownRecord(f"{queue} has no failure group {fingerprint}")
            before = {"note": group.note, "owner": group.owner, "muted_until": group.muted_until}
            note = GroupNote(**(before | dict(changes)), by=by, at=rfc3339(self._now_ms()))
            changed = Written(self._topics.state, group_key(queue, fingerprint), encode_state(note))
            await self._write(changed, self._audit("annotate", by, subject, "noted", None, **changes))
        return note

    # -- parts of a deed --------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    async def _letter(self, record_id: str) -> DeadLetterRecord:
        letter = await self._index.record(record_id)
        if letter is None:
            raise UnknownRecord.letter(record_id)
        return letter

    async def _done_before(self, record_id: str, status: Status, by: str, request: str | None) -> LetterState | None:
        """What this very request has done already; None: it has not."""
        if request is None:
            return None
        state = await self.state(record_id)
        if (state.request, state.by) != (request, by):
            return None
        if state.status != status:
            raise Conflict(f"the Idempotency-Key {request!r} was used for {record_id} to make it {state.status}", state.version)
        return state

    async def _open_state(self, record_id: str, expected: int | None, *, force: bool = False) -> LetterState:
        state = await self.state(record_id)
        if expected is not None and expected != state.version:
            raise Conflict(f"{record_id} has version {state.version} by now, not {expected}", state.version)
        if state.status in DONE and not force:
            raise Conflict(f"{record_id} is {state.status} since {state.at}, by {state.by}", state.version)
        return state

    def _next(
        self,
        before: LetterState,
        status: Status,
        by: str,
        *,
        job: str | None = None,
        note: str | None = None,
        request: str | None = None,
    ) -> LetterState:
        return LetterState(status, by, rfc3339(self._now_ms()), job, note, before.version + 1, request)

    async def _carry_out(self, letter: DeadLetterRecord, state: LetterState, audit: Written, *records: Written) -> None:
        key = letter_key(letter.topic, letter.partition, letter.offset)
        await self._write(Written(self._topics.state, key, encode_state(state)), audit, *records)

    async def _write(self, first: Written, *others: Written) -> None:
        """In one transaction; returns when the index has ``first``, which is of the state topic."""
        places = await self._deeds.write([first, *others])
        if not await self._follower.folded(*places[0]):
            raise DeadLettersUnavailable("it is done, but the index of this process is behind and does not show it yet")

    def _audit(self, action: str, by: str, subject: str, result: str, reason: str | None, **details: Any) -> Written:
        return audit_record(self._topics.audit, by, action, subject, result, reason, details, self._now_ms())


def audit_record(
    topic: str, by: str, action: str, subject: str, result: str, reason: str | None, details: Mapping[str, Any], at_ms: int
) -> Written:
    """An audit event for the topic; it is in the log as well."""
    event: dict[str, Any] = {"at": rfc3339(at_ms), "who": by, "action": action, "subject": subject, "result": result}
    event |= {"reason": reason, "details": dict(details)}
    log.info("dead_letter_deed", **event)
    return Written(topic, subject.encode(), msgspec.json.encode(event))

"""Doing something about dead letters: discard, replay, note. Each deed is a record of the state topic and of the audit.

A deed is answered when the local index has it, so whoever asks next sees it. Two people who do something about the same
letter take turns, and the second is told (``Conflict``) that it is not what he looked at any more. That holds within one
process; ``veltrix admin`` runs once per deployment, or behind something that sends all writes to one of them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiokafka.errors import KafkaError

from app.dead_letters.api import DeadLetterRecord, DeadLettersUnavailable
from app.dead_letters.headers import rfc3339
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.states import GroupNote, LetterState, Status, encode_state, group_key, letter_key
from app.dead_letters.lineage import Origin
from app.dead_letters.replay import NotReplayable, ReplayRecord, replay_of

log = structlog.get_logger(__name__)

#: Nothing can be done about a letter in one of these any more, except by force.
DONE: Final = frozenset({"replaying", "replayed", "resolved", "discarded"})


class UnknownRecord(Exception):
    """Kafka holds no such dead letter."""


class Conflict(Exception):
    """The letter is not as the caller saw it: somebody was quicker. Look again."""

    def __init__(self, message: str, version: int) -> None:
        super().__init__(message)
        self.version = version


class Producer(Protocol):
    """What is used of aiokafka's producer."""

    async def send_and_wait(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Any = None,
    ) -> Any: ...


class Desk:
    """Where people's deeds are carried out.

    Args:
        index: what is known.
        follower: tells when a deed is in the index.
        producer: connected.
        state_topic, audit_topic: where deeds are written.
        sources: topics that may be written to, with their partition counts.
    """

    def __init__(
        self,
        index: DeadLetterIndex,
        follower: IndexFollower,
        producer: Producer,
        state_topic: str,
        audit_topic: str,
        sources: Mapping[str, int],
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._index, self._follower, self._producer, self._sources = index, follower, producer, dict(sources)
        self._state_topic, self._audit_topic, self._now_ms = state_topic, audit_topic, now_ms
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def state(self, record_id: str) -> LetterState:
        """What was done about a letter; a fresh one is ``pending``, version 0."""
        found = await self._index.ask(record_id, IndexReader.state)
        return found or LetterState("pending", version=0)

    async def discard(self, record_id: str, by: str, reason: str, expected: int | None = None) -> LetterState:
        """Nobody needs it: it stays in its topic and leaves the list of what is to be done.

        Raises:
            UnknownRecord, Conflict, UnknownQueue, InvalidQuery, DeadLettersUnavailable
        """
        async with self._turn(record_id):
            await self._letter(record_id)
            state = await self._open_state(record_id, expected)
            done = await self._write(record_id, state, "discarded", by, note=reason)
            await self._audit("discard", by, record_id, "discarded", reason)
        return done

    async def replay(
        self, record_id: str, by: str, reason: str, *, value: bytes | None = None, force: bool = False, expected: int | None = None
    ) -> LetterState:
        """Send it again. It is ``replaying`` until the broker has it, so that an interrupted replay is seen.

        Raises:
            NotReplayable: see ``replay_of``; what was replayed too often becomes ``exhausted``.
            UnknownRecord, Conflict, UnknownQueue, InvalidQuery, DeadLettersUnavailable
        """
        job = f"single-{uuid.uuid4().hex[:12]}"
        async with self._turn(record_id):
            letter = await self._letter(record_id)
            state = await self._open_state(record_id, expected, force=force)
            try:
                record = replay_of(letter, self._sources, job, value=value, edit=None if value is None else job, force=force)
            except NotReplayable as exc:
                if exc.kind == "exhausted":
                    await self._write(record_id, state, "exhausted", by, note=str(exc))
                raise
            state = await self._write(record_id, state, "replaying", by, job=job, note=reason)
            await self._send(record)
            done = await self._write(record_id, state, "replayed", by, job=job, note=reason)
            await self._audit("replay", by, record_id, "replayed", reason, job=job, edited=value is not None, force=force)
        return done

    async def annotate(self, queue: str, fingerprint: str, by: str, changes: Mapping[str, str | None]) -> GroupNote:
        """Change what is noted about a failure group; what ``changes`` does not name stays.

        Raises:
            UnknownRecord: there is no such group.
            UnknownQueue, DeadLettersUnavailable
        """
        async with self._turn(f"{queue}:{fingerprint}"):
            group = next((group for group in await self._index.groups(queue) if group.fingerprint == fingerprint), None)
            if group is None:
                raise UnknownRecord(f"{queue} has no failure group {fingerprint}")
            before = {"note": group.note, "owner": group.owner, "muted_until": group.muted_until}
            note = GroupNote(**(before | dict(changes)), by=by, at=rfc3339(self._now_ms()))
            await self._fold_in(group_key(queue, fingerprint), encode_state(note))
            await self._audit("annotate", by, f"{queue}:{fingerprint}", "noted", None, **changes)
        return note

    # -- parts of a deed --------------------------------------------------------------------------

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        try:
            async with self._locks[name]:
                yield
        except KafkaError as exc:
            raise DeadLettersUnavailable(f"Kafka did not take it: {exc!r}") from exc
        finally:
            if not self._locks[name].locked():
                self._locks.pop(name, None)

    async def _letter(self, record_id: str) -> DeadLetterRecord:
        letter = await self._index.record(record_id)
        if letter is None:
            raise UnknownRecord(f"Kafka holds no dead letter {record_id}; retention may have taken it.")
        return letter

    async def _open_state(self, record_id: str, expected: int | None, *, force: bool = False) -> LetterState:
        state = await self.state(record_id)
        if expected is not None and expected != state.version:
            raise Conflict(f"{record_id} has version {state.version} by now, not {expected}", state.version)
        if state.status in DONE and not force:
            raise Conflict(f"{record_id} is {state.status} since {state.at}, by {state.by}", state.version)
        return state

    async def _write(
        self, record_id: str, before: LetterState, status: Status, by: str, *, job: str | None = None, note: str | None = None
    ) -> LetterState:
        state = LetterState(status, by, rfc3339(self._now_ms()), job, note, before.version + 1)
        place = Origin(*_split(record_id))
        await self._fold_in(letter_key(*place), encode_state(state))
        return state

    async def _fold_in(self, key: bytes, value: bytes) -> None:
        sent = await self._producer.send_and_wait(self._state_topic, value, key)
        if not await self._follower.folded(self._state_topic, sent.partition, sent.offset):
            raise DeadLettersUnavailable("it is done, but the index of this process is behind and does not show it yet")

    async def _send(self, record: ReplayRecord) -> None:
        await self._producer.send_and_wait(
            record.topic, record.value, record.key, record.partition, record.timestamp, list(record.headers)
        )

    async def _audit(self, action: str, by: str, subject: str, result: str, reason: str | None, **details: Any) -> None:
        event: dict[str, Any] = {
            "at": rfc3339(self._now_ms()),
            "who": by,
            "action": action,
            "subject": subject,
            "result": result,
            "reason": reason,
        }
        event |= {"details": details}
        await self._producer.send_and_wait(self._audit_topic, msgspec.json.encode(event), subject.encode())
        log.info("dead_letter_deed", **event)


def _split(record_id: str) -> tuple[str, int, int]:
    topic, partition, offset = record_id.split(":")
    return topic, int(partition), int(offset)

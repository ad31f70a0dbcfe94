"""Carrying out one job: take the oldest letters, send them, say so, and look what became of them, until none is left.

Each step is one transaction of records, their states and the job's own record. A killed process leaves no step half
done; whoever carries on finds in the index what is left, once it has what was written before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog

from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.deeds import DeedWriter, Place, Written
from app.dead_letters.desk import DeskTopics, audit_record
from app.dead_letters.headers import rfc3339
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.index.states import LetterState, Status, encode_state, job_key, letter_key
from app.dead_letters.jobs import Job, encode_job
from app.dead_letters.json_patch import PatchFailed, apply_patch
from app.dead_letters.lineage import Origin
from app.dead_letters.replay import NotReplayable, release_of, replay_of, written
from app.dead_letters.source_watch import SourceWatch, highest

log = structlog.get_logger(__name__)

#: How often lag and failures are looked at, seconds.
CHECK_S: Final = 2.0
#: How long the outcome of a canary is waited for, seconds. Later is no failure: the stream may stand still.
OUTCOME_S: Final = 120.0
#: How long one look at the outcome waits for the next, seconds.
LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Tools:
    """What a job works with."""

    index: DeadLetterIndex
    follower: IndexFollower
    deeds: DeedWriter
    source: SourceWatch
    topics: DeskTopics


@dataclass(slots=True)
class Replayer:
    """One job under way. ``job`` is how far it is; ``stop`` is how it is asked to stop, with the state to end in."""

    job: Job
    tools: Tools
    stop: str | None = None
    _began: float = field(default_factory=time.monotonic)
    _checked: float = 0.0
    _places: list[Place] = field(default_factory=list)

    async def run(self) -> Job:
        """Until it is done, stopped, or must pause. Returns how it ended.

        Raises:
            DeadLettersUnavailable: Kafka is away; the job is still RUNNING and can be run again.
        """
        while self.job.state == "RUNNING":
            if self.stop is not None:
                await self._end(self.stop)
            elif self.job.is_at_canary or time.monotonic() - self._checked >= CHECK_S:
                await self._check()
            else:
                await self._step()
        return self.job

    async def _step(self) -> None:
        job, started = self.job, time.monotonic()
        size = job.next_batch(started - self._began)
        rows = await self.tools.index.look(lambda index: _taken(index, job, size)) if size else []
        if not rows:
            await self._finish()
            return
        # A discard needs no bytes.
        letters = await self.tools.index.letters([row for row, _ in rows]) if job.kind == "replay" else [None] * len(rows)
        records, states = list[Written](), list[Written]()
        for (row, version), letter in zip(rows, letters, strict=True):
            self._handle(row, version, letter, records, states)
        self._change(cursor_ms=rows[-1][0].timestamp_ms)
        self._places = (await self._write(records, states))[1 : 1 + len(records)] or self._places
        await self._wait(started + len(rows) / self.job.rate(started - self._began))

    def _handle(
        self, row: DeadLetterRecord, version: int, letter: DeadLetterRecord | None, records: list[Written], states: list[Written]
    ) -> None:
        """One letter: a record to send, maybe, and its new state."""
        job = self.job
        status: Status = "discarded" if job.kind == "discard" else "replayed"
        note: str | None = None
        try:
            if job.kind == "replay":
                records.append(self._record(letter))
                self._change(sent=job.sent + 1)
            else:
                records += filter(None, [release_of(row, self.tools.topics.ours)])
                self._change(discarded=job.discarded + 1)
        except (NotReplayable, PatchFailed) as exc:
            is_exhausted = isinstance(exc, NotReplayable) and exc.kind == "exhausted"
            status, note = ("exhausted" if is_exhausted else "pending"), str(exc)
            self._change(**({"exhausted": job.exhausted + 1} if is_exhausted else {"skipped": job.skipped + 1}))
        state = LetterState(status, job.by, rfc3339(_now_ms()), job.id, note or job.reason, version + 1)
        states.append(Written(self.tools.topics.state, letter_key(row.topic, row.partition, row.offset), encode_state(state)))

    def _record(self, letter: DeadLetterRecord | None) -> Written:
        job = self.job
        if letter is None:
            raise NotReplayable("gone", "retention has taken it")
        value = None if job.patch is None else apply_patch(letter.value, job.patch)
        edit = None if job.patch is None else job.id
        return written(replay_of(letter, self.tools.topics.ours, job.id, value=value, edit=edit, force=job.force))

    # -- looking what became of it ----------------------------------------------------------------

    async def _check(self) -> None:
        """Pause when too many fail again or the source falls behind; a canary waits for its outcome."""
        self._checked = time.monotonic()
        if self.job.kind == "discard":
            return
        is_canary = self.job.is_at_canary
        if is_canary:
            await self._outcome()
        else:
            self.job = self.job.held_by_lag(await self.tools.source.lag())
        self.job = self.job.judged(await self.failed_again())
        if self.job.state != "RUNNING":
            await self._end(self.job.state)
        elif is_canary:
            self._began = time.monotonic()
            await self._write([], [])

    async def failed_again(self) -> int:
        """Records of this job that are dead letters again, as far as the index is."""
        job = self.job.id
        return await self.tools.index.look(lambda index: index.failed_again(job))

    async def _outcome(self) -> None:
        """Wait until the workers are past what was sent, and the index has what they parked of it."""
        places, deadline = highest(self._places), time.monotonic() + OUTCOME_S
        while time.monotonic() < deadline and self.stop is None:
            if await self.tools.source.is_past(places):
                await asyncio.sleep(2 * LOOK_S)  # the letters were acknowledged before; now the index reads them
                while self.tools.follower.lag != 0 and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(LOOK_S)
                return
            await asyncio.sleep(LOOK_S)

    # -- writing ----------------------------------------------------------------------------------

    async def _finish(self) -> None:
        """Nothing is left, or enough was done. What was sent last is judged too, so that the numbers are final."""
        if self.job.kind == "replay" and self._places:
            await self._outcome()
        await self._end(self.stop or "COMPLETED")

    async def _end(self, state: str) -> None:
        failed = await self.failed_again()
        self._change(state=state)
        job, topic = self.job, self.tools.topics.audit
        details = counts(job) | {"failed_again": failed, "filters": job.filters}
        await self._write([audit_record(topic, job.by, job.kind, job.id, state, job.reason, details, _now_ms())], [])

    async def _write(self, records: Sequence[Written], states: Sequence[Written]) -> list[Place]:
        self._change(updated_ms=_now_ms())
        own = Written(self.tools.topics.state, job_key(self.job.id), encode_job(self.job))
        places = await self.tools.deeds.write([own, *records, *states])
        last = max((place for place in places if place.topic == self.tools.topics.state), key=lambda place: place.offset)
        # The next selection must not see what this one took; a slow index only makes the job slower.
        while not await self.tools.follower.folded(*last):
            log.info("replay_waits_for_index", job=self.job.id)
        return places

    def _change(self, **changes: Any) -> None:
        self.job = msgspec.structs.replace(self.job, **changes)

    async def _wait(self, until: float) -> None:
        while self.stop is None and (left := until - time.monotonic()) > 0:  # noqa: ASYNC110 - a stop is seen within one look
            await asyncio.sleep(min(left, LOOK_S))


def _taken(index: IndexReader, job: Job, size: int) -> list[tuple[DeadLetterRecord, int]]:
    """The next letters, each with the version of its state (0: none), which the job's own follows."""
    rows = index.untouched(job.queue, size, job.cursor_ms, job.wanted, job.id)
    states = [index.state(Origin(row.topic, row.partition, row.offset)) for row in rows]
    return [(row, 0 if state is None else state.version) for row, state in zip(rows, states, strict=True)]


def counts(job: Job) -> dict[str, int]:
    """What was done."""
    return {name: getattr(job, name) for name in ("matched", "sent", "skipped", "exhausted", "discarded")}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

"""Running an agent's body over records, so that one poison record never costs its neighbours.

The body works on a stage that is thrown away when it raises. Then the records are halved and run again,
in order, until the guilty record stands alone: it becomes a dead letter, the others are processed.
A body that raises for one record in N costs about 2 log2(N) extra runs. State that would not fit one
changelog RecordBatch is halved in the same way, into units of their own. A body that raises because something does not
answer is run a few times like this, then the rest of the batch goes to the retry tiers as it is. What ends the whole process cannot
be caught: for that each run is noted in the crash journal (:mod:`app.engine.journal`).

A run without records (a *tick*) lets an agent close what has become due. Nobody is to blame when it raises: it is
logged, and tried again at the next tick.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import structlog

from app.domain.damage import DamagedState
from app.engine.api import Body, Effects, Failure, LaneId, Output, Record, Retries, Retry, Transient
from app.engine.held import Changes, encoded
from app.engine.journal import LaneJournal
from app.engine.order import AsTheyCome, Order, Turn
from app.engine.state import LaneState, Stage
from app.engine.tracing import RunTrace

log = structlog.get_logger(__name__)

#: Upper bound of what one record of a RecordBatch v2 needs beside key and value (varints, attributes).
_CHANGELOG_RECORD_OVERHEAD = 24
#: Room kept for the batch header and the marker record.
_CHANGELOG_BATCH_OVERHEAD = 2048
#: What a body raises when something does not answer: no record is to blame.
_PASSING = (Transient, TimeoutError, ConnectionError)
#: Runs of one batch that may fail like that in search of a record that is to blame after all; then all that is left waits.
_PASSING_RUNS = 12
_headers_of = attrgetter("headers")
_AS_THEY_COME = AsTheyCome()
#: Room kept for the headers and varints of an output record.
_OUTPUT_OVERHEAD = 2048


class UnaccountedRecords(Exception):
    """An agent's body gave a batch more or fewer outcomes than it has records: a bug in that agent."""

    def __init__(self, lane: LaneId, records: int, outcomes: int) -> None:
        super().__init__(f"agent {lane.agent}: {outcomes} outcomes for {records} records, and every record needs exactly one")
        self.records = records
        self.outcomes = outcomes


@dataclass(slots=True)
class Moment:
    """What the outputs of a tick come from, in place of a record: ``offset`` is the last one applied."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes | None]] = ()


class TooLarge(Exception):
    """One record's state change or output does not fit a RecordBatch (VELTRIX_PRODUCE_MAX_BATCH_BYTES)."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} of {size} bytes does not fit a batch of {limit} bytes")
        self.size = size


@dataclass(slots=True)
class LaneBatch:
    """The batch that the body is called with (see :class:`app.engine.api.Batch`)."""

    lane: LaneId
    topic: str
    records: Sequence[Record]
    state: Stage
    context: Any
    idle_ms: int | None = None

    def effects(self) -> Effects:
        """An empty result to fill and return."""
        return Effects()


@dataclass(slots=True)
class Computed:
    """What the body decided for consecutive records of ``topic``, or in a tick; becomes one unit."""

    topic: str
    records: list[Record] = field(default_factory=list)
    outputs: list[tuple[Record, Output]] = field(default_factory=list)
    dead_letters: list[tuple[Record, Failure]] = field(default_factory=list)
    aside: list[tuple[Record, Failure]] = field(default_factory=list)
    retries: list[tuple[Record, Failure, Retry]] = field(default_factory=list)
    emitted: int = 0
    duplicates: int = 0
    dropped: int = 0
    late: dict[str, int] = field(default_factory=dict)
    """events that came too late, by result"""
    steps: dict[str, float] = field(default_factory=dict)
    """seconds that the body says it spent, by step"""
    reached: dict[str, float] = field(default_factory=dict)
    """when the body was last done with a step (``perf_counter``)"""
    writes: dict[bytes, bytes | None] = field(default_factory=dict)
    runs: int = 0
    """How many runs of the body are in it"""
    trace: RunTrace | None = None
    source_bytes: int = 0
    timestamps: list[int] = field(default_factory=list)
    """of the records, epoch ms"""
    output_counts: dict[str, int] = field(default_factory=dict)
    """by topic, once the outputs are made into batches"""
    changelog_size: int = _CHANGELOG_BATCH_OVERHEAD

    def add(self, records: Sequence[Record], effects: Effects, writes: dict[bytes, bytes | None], size: int) -> None:
        """Append the result of a later run."""
        self.records += records
        self.source_bytes += sum([len(record.value or b"") for record in records])
        self.timestamps += [record.timestamp for record in records]
        self.outputs += effects.outputs
        self.dead_letters += effects.dead_letters
        self.aside += effects.aside
        self.retries += effects.retries
        for result, count in effects.late_events.items():
            self.late[result] = self.late.get(result, 0) + count
        for step, seconds in effects.steps.items():
            self.steps[step] = self.steps.get(step, 0.0) + seconds
        self.reached |= effects.reached
        self.emitted += effects.emitted
        self.duplicates += effects.duplicates
        self.dropped += effects.dropped
        self.writes |= writes
        self.runs += 1
        self.changelog_size += size


class Computer:
    """Runs one agent's body for one lane.

    Without a ``journal``, a record that kills the process is run for ever; without ``retries``, what is to be tried again
    is a dead letter.
    """

    def __init__(
        self,
        lane: LaneId,
        body: Body,
        context: Any,
        state: LaneState,
        batch_limit: int,
        journal: LaneJournal | None = None,
        retries: Retries | None = None,
        order: Order = _AS_THEY_COME,
    ) -> None:
        self._lane = lane
        self._body = body
        self._context = context
        self._state = state
        self._limit = batch_limit
        self._journal = journal
        self._retries = retries
        self._order = order
        self._passing = 0

    async def run(self, records: Sequence[Record]) -> list[Computed]:
        """Process ``records`` (one topic, offset order) into one unit, or several when their state is large."""
        units: list[Computed] = []
        journal = self._journal
        self._passing = 0
        if journal is None:
            await self._run(records, units)
        elif journal.worker.is_calm:
            journal.begin(records)
            try:
                await self._run(records, units)
            finally:
                journal.end()
        else:
            await self._run_cautiously(journal, records, units)
        return units

    async def _run_cautiously(self, journal: LaneJournal, records: Sequence[Record], units: list[Computed]) -> None:
        """After a crash: suspects one by one, no two lanes at once, and what died too often not at all."""
        journal.worker.check()
        for group in journal.groups(records):
            attempts = journal.attempts(group[0])
            if attempts >= journal.worker.limit:
                self._park(group, self._crashed_worker(group[0], attempts), units)
                continue
            async with journal.worker.turn:
                journal.begin(group)
                try:
                    await self._run(group, units)
                finally:
                    journal.end()
            journal.survived(group)
            await asyncio.sleep(0)  # many small runs: heartbeats and other lanes come in between

    async def tick(self, moment: Moment, idle_ms: int | None) -> list[Computed]:
        """Run the body without records; a unit if it changed or published anything.

        Args:
            moment: of the lane's source topic.
            idle_ms: the wall clock, if the partition is read to its end.
        """
        stage = self._state.stage()
        try:
            effects = await self._body(LaneBatch(self._lane, moment.topic, (), stage, self._context, idle_ms))
            writes = stage.encode()
            size = self._check((), effects, writes)
        except DamagedState:
            raise
        except Exception as exc:
            self._state.discard(stage)
            self._state.is_due_left = isinstance(exc, TooLarge) and self._state.tell_fewer(stage)
            log.exception("tick_failed", lane=str(self._lane))
            return []
        if not writes and not effects.published:
            self._state.discard(stage)
            return []
        self._state.accept(stage, writes)
        effects.outputs += [(moment, output) for output in effects.published]
        unit = Computed(moment.topic)
        unit.add((), effects, writes, size)
        return [unit]

    async def _run(self, records: Sequence[Record], units: list[Computed]) -> None:
        turn, stage = self._order.turn(records), self._state.stage()
        try:
            effects = await self._attempt(turn.ready, stage)
            while self._order.is_overtaken(turn, effects):
                self._state.discard(stage)
                stage = self._state.stage()
                effects = await self._attempt(turn.ready, stage)
            changes = self._order.settle(records, turn, effects)
            writes = stage.encode()
            writes |= encoded(changes)
            size = self._check(records, effects, writes)
        except DamagedState:
            raise  # no event is to blame: the lane ends the process
        except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever the agent's code raises is one dead letter, not a dead worker
            self._state.discard(stage)
            if isinstance(exc, TooLarge) and self._state.tell_fewer(stage):
                await self._run(records, units)
            else:
                await self._isolate(records, exc, units)
            return
        self._accept(stage, writes, changes)
        self._append(units, records, effects, writes, size)

    async def _attempt(self, records: Sequence[Record], stage: Stage) -> Effects:
        if not records:
            return Effects()
        return await self._body(LaneBatch(self._lane, records[0].topic, records, stage, self._context))

    def _accept(self, stage: Stage, writes: dict[bytes, bytes | None], changes: Changes) -> None:
        self._state.accept(stage, writes)
        self._order.accept(changes)

    def _check(self, records: Sequence[Record], effects: Effects, writes: dict[bytes, bytes | None]) -> int:
        """Size of ``writes`` in the changelog; raises when the result cannot be used as it is."""
        if not effects.covers(records):
            raise UnaccountedRecords(self._lane, len(records), effects.outcomes())
        largest = _largest([output for _, output in effects.outputs] + effects.published, self._limit - _OUTPUT_OVERHEAD)
        if largest + _OUTPUT_OVERHEAD > self._limit:
            raise TooLarge("an output", largest, self._limit)
        size = _changelog_size(writes)
        if size + _CHANGELOG_BATCH_OVERHEAD > self._limit:
            raise TooLarge("the changed state", size, self._limit)
        return size

    def _append(
        self, units: list[Computed], records: Sequence[Record], effects: Effects, writes: dict[bytes, bytes | None], size: int
    ) -> None:
        effects.outputs += [(records[-1], output) for output in effects.published]
        if effects.retrying:
            effects.plan_retries(self._retries, time.time_ns() // 1_000_000)
        if not units or units[-1].changelog_size + size > self._limit:
            units.append(Computed(records[-1].topic))
        units[-1].add(records, effects, writes, size)

    async def _isolate(self, records: Sequence[Record], exc: Exception | SystemExit, units: list[Computed]) -> None:
        self._passing += isinstance(exc, _PASSING)
        if isinstance(exc, _PASSING) and (len(records) == 1 or self._passing >= _PASSING_RUNS):
            self._retry(records, exc, units)
            return
        if len(records) > 1:
            half = len(records) // 2
            await self._run(records[:half], units)
            await self._run(records[half:], units)
            return
        self._park(records, self._failure(exc), units)

    def _retry(self, records: Sequence[Record], exc: BaseException, units: list[Computed]) -> None:
        """``records`` are to be tried again and change no state."""
        failure = Failure("aggregate", "no_answer", f"{type(exc).__name__} in agent {self._lane.agent}", "transient_timeout", exc)
        turn, effects = self._order.turn(records), Effects()
        for record in turn.ready:
            effects.retry(record, failure)
        if not self._give_up(records, turn, effects, units):
            half = len(records) // 2
            self._retry(records[:half], exc, units)
            self._retry(records[half:], exc, units)

    def _park(self, records: Sequence[Record], failure: Failure, units: list[Computed]) -> None:
        """The one record of ``records`` is a dead letter and changes no state."""
        effects = Effects()
        effects.dead_letter(records[0], failure)
        self._give_up(records, Turn(records), effects, units)

    def _give_up(self, records: Sequence[Record], turn: Turn, effects: Effects, units: list[Computed]) -> bool:
        """No state but the order is changed; False: nothing was done, since that is too much for one unit."""
        changes = self._order.settle(records, turn, effects)
        writes = encoded(changes)
        size = _changelog_size(writes)
        if len(records) > 1 and size + _CHANGELOG_BATCH_OVERHEAD > self._limit:
            return False
        self._accept(self._state.stage(), writes, changes)
        self._append(units, records, effects, writes, size)
        return True

    def _crashed_worker(self, record: Record, attempts: int) -> Failure:
        log.error("crashing_record_parked", lane=str(self._lane), topic=record.topic, offset=record.offset, attempts=attempts)
        message = f"the worker process died {attempts} times while agent {self._lane.agent} processed this record"
        return Failure("aggregate", "crashed_worker", message, "parked")

    def _failure(self, exc: Exception | SystemExit) -> Failure:
        # str(exc) may quote the payload, so the message names the class only; the trace says where.
        if isinstance(exc, TooLarge):
            return Failure("publish", "result_too_large", str(exc), "oversize", exc)
        if isinstance(exc, UnaccountedRecords):
            return Failure("aggregate", "unaccounted", str(exc), exception=exc)
        return Failure("aggregate", "agent_error", f"{type(exc).__name__} in agent {self._lane.agent}", exception=exc)


def _largest(outputs: Sequence[Output], room: int) -> int:
    """Size of the largest of ``outputs``, or, as long as it is within ``room``, something above it that is found sooner."""
    value = max(map(len, filter(None, [output.value for output in outputs])), default=0)
    key = max(map(len, filter(None, [output.key for output in outputs])), default=0)
    if value + key <= room and not any(map(_headers_of, outputs)):
        return value + key
    return max(map(_size, outputs), default=0)


def _changelog_size(writes: dict[bytes, bytes | None]) -> int:
    return sum(map(len, writes)) + sum(map(len, filter(None, writes.values()))) + _CHANGELOG_RECORD_OVERHEAD * len(writes)


def _size(output: Output) -> int:
    size = len(output.value or b"") + len(output.key or b"")
    return size + sum(len(name) + len(value or b"") for name, value in output.headers) if output.headers else size

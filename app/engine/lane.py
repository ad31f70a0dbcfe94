"""A lane: one partition number of one agent. Takes records, runs units through the pipeline, keeps order.

Two tasks share the work. *compute* takes queued records, runs the agent's body and hands each unit to the
delivery; *settle* is the delivery's: it makes the oldest units durable, changelog first, then one RocksDB write.
Units in flight are bounded, so a slow acknowledgement never idles the core and never grows memory. Nothing here
catches a failed send: any exception of either task ends the process, because going on could lose or double an event.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.engine.api import LaneId, Record
from app.engine.breaker import LaneBreaker, always_closed
from app.engine.compute import Computed, Computer, Moment
from app.engine.delivery import Delivery
from app.engine.guard import Fatal
from app.engine.order import AsTheyCome, Order
from app.engine.progress import Progress
from app.engine.settlement import Settlement
from app.engine.state import LaneState
from app.engine.status import DurableListener, HeldKeys, Observer
from app.engine.tiers import Tiers
from app.engine.tracing import PassOn, Tracing
from app.engine.unit import Unit
from app.log_context import Work, work_on


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Bounds of one lane; see the settings of the same names."""

    unit_max_records: int
    unit_max_bytes: int
    unit_depth: int
    settle_interval_s: float
    high_water: int
    low_water: int
    batch_bytes: int
    drain_timeout_s: float
    linger_s: float = 0.0
    """records may wait for company that long after the last run"""


@dataclass(frozen=True, slots=True)
class Ticks:
    """When the agent's body is called without records."""

    topic: str
    """the lane's source"""
    interval_s: float
    is_at_end: Callable[[], bool]
    """the source partition is read to its end, and that was asked a moment ago"""


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What a lane works with; built by the engine, all fakeable."""

    computer: Computer
    state: LaneState
    delivery: Delivery
    observer: Observer
    listener: DurableListener
    fatal: Fatal
    set_paused: Callable[[bool], None]
    """Pause or resume fetching of this lane's source"""
    tiers: Tiers = field(default_factory=Tiers)
    order: Order = field(default_factory=AsTheyCome)
    breaker: LaneBreaker = field(default_factory=always_closed)
    ticks: Ticks | None = None
    tracing: Tracing = field(default_factory=PassOn)


class Lane:
    """One partition number of one agent, from fetched records to durable state."""

    def __init__(self, lane: LaneId, changelog_topic: str, parts: LaneParts, limits: LaneLimits, progress: Progress) -> None:
        self.id = lane
        self.changelog_topic = changelog_topic
        self.progress = progress
        self.limits = limits
        self.state = parts.state
        self.tiers = parts.tiers
        self.paused = False
        self._parts = parts
        self.queued = 0
        """records fetched and not yet taken into a unit"""
        self._queue: deque[tuple[float, Sequence[Record]]] = deque()
        """as they were fetched: when (``perf_counter``), and a list of one topic"""
        self._fetched_at = 0.0
        """when the oldest records of the last run were fetched"""
        self._in_flight: deque[Unit] = deque()
        self._records_in_flight = 0
        self._unacked = 0
        self._repairs = parts.state.store.keys_to_repair()
        self._ran_at = time.monotonic()
        self._work = asyncio.Event()
        self._acked = asyncio.Event()
        self.closing = False
        self._working = Work(lane.agent, lane.partition)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def units_in_flight(self) -> int:
        """Units published but not yet durable."""
        return len(self._in_flight)

    @property
    def dead_letters_wait_s(self) -> float:
        """For how long dead letters have been on their way to Kafka; 0 when none are."""
        since = min((unit.computed_at for unit in self._in_flight if unit.has_unwritten_dead_letters), default=None)
        return 0.0 if since is None else time.perf_counter() - since

    @property
    def held(self) -> HeldKeys:
        """Keys of which an event has failed, and later ones wait."""
        return self._parts.order.status()

    def start(self) -> None:
        """Begin to work; must be called on the running loop."""
        for work in (self._compute(), self._parts.delivery.settle(self)):
            task = asyncio.get_running_loop().create_task(work, name=f"lane-{self.id}")
            task.add_done_callback(self._on_task_done)
            self._tasks.append(task)

    def offer(self, records: Sequence[Record]) -> None:
        """Queue fetched records of one topic, in offset order. Ignored once closing: they are fetched again."""
        records = self.progress.unseen(records)
        if self.closing or not records:
            return
        if records[0].topic in self.tiers:
            self.tiers.hold(records)
            self._work.set()
            return
        self._queue.append((time.perf_counter(), records))
        self.queued += len(records)
        if self.queued > self.limits.high_water and not self.paused:
            self._pause(True)
        self._work.set()

    async def close(self) -> None:
        """Drop what is queued, finish the units in flight, stop. Bounded: exits the process when it takes too long."""
        self.closing = True
        self._queue.clear()
        self.queued = 0
        self._work.set()
        _, unfinished = await asyncio.wait(self._tasks, timeout=self.limits.drain_timeout_s)
        if unfinished:
            self._parts.fatal(
                f"lane {self.id}: {len(self._in_flight)} units did not finish in {self.limits.drain_timeout_s} s", None
            )
        await self._parts.listener.lane_stopped(self.id)

    # -- compute ----------------------------------------------------------------------------------

    async def _compute(self) -> None:
        work_on(self._working)
        while True:
            self._take_due()
            while not self.closing and (not self._may_take() or self._run_in_s() != 0.0 or self._is_full()):
                await self._wait_for_work()
                self._take_due()
            if self.closing:
                return
            started = time.perf_counter()
            units = await self._run()
            self._working.end()
            for computed in units:
                self._parts.breaker.record(len(computed.records) - len(computed.retries), computed.dead_letters)
                while self._is_full():
                    await self._wait_for_work()
                await self._publish(Unit(computed, started, self._fetched_at))
            await asyncio.sleep(0)  # other lanes, heartbeats and the sidecar come first now

    def _take_due(self) -> None:
        """Queue what has waited long enough in a retry tier."""
        if self.queued <= self.limits.high_water and self.tiers.wait_s() == 0.0:
            for records in self.tiers.due():
                self._queue.append((time.perf_counter(), records))
                self.queued += len(records)

    async def _run(self) -> list[Computed]:
        computer, ticks = self._parts.computer, self._parts.ticks
        self._ran_at = time.monotonic()
        if self._queue or ticks is None:
            self._fetched_at = self._queue[0][0]
            return await self._run_traced(self._take())
        self._fetched_at = time.perf_counter()
        now_ms = time.time_ns() // 1_000_000
        moment = Moment(ticks.topic, self.id.partition, self.progress.last_read(ticks.topic), now_ms)
        return await computer.tick(moment, now_ms if ticks.is_at_end() else None)

    async def _run_traced(self, records: list[Record]) -> list[Computed]:
        self._working.begin(records[0].topic, records[0].offset, records[-1].offset)
        trace = self._parts.tracing.begin(self.id, records, time.perf_counter() - self._fetched_at)
        if trace is None:
            return await self._parts.computer.run(records)
        self._working.trace_id = trace.trace_id
        with trace.current():
            units = await self._parts.computer.run(records)
        trace.computed(len(units))
        for unit in units:
            unit.trace = trace
        return units

    def _run_in_s(self) -> float | None:
        """Seconds to the next run: of records, else of none where the agent has ticks; None: whenever records come."""
        ticks = self._parts.ticks
        if self._queue:
            wait_s = 0.0 if self.queued >= self.limits.unit_max_records else self.limits.linger_s
        elif ticks is None:
            return None
        else:
            wait_s = ticks.interval_s
        if not wait_s or self.state.is_due_left:
            return 0.0
        return max(0.0, self._ran_at + wait_s - time.monotonic())

    def _is_full(self) -> bool:
        depth, most = self.limits.unit_depth, self.limits.unit_max_records
        return self._unacked >= depth or self._records_in_flight >= depth * most

    def _may_take(self) -> bool:
        """Whether the breaker lets records through. While it does not, nothing is fetched: they wait in Kafka."""
        may = self._parts.breaker.allowance() > 0
        if not may or (self.paused and self.queued <= self.limits.low_water):
            self._pause(not may)  # again and again while open: after a recovery Faust resumes all partitions
        return may

    async def _wait_for_work(self) -> None:
        self._work.clear()
        wait_s = self._parts.breaker.wait_s()
        if wait_s is None and not self._is_full():
            wait_s = _sooner(self._run_in_s(), self.tiers.wait_s())
        alarm = None if wait_s is None else asyncio.get_running_loop().call_later(wait_s, self._work.set)
        await self._work.wait()
        if alarm is not None:
            alarm.cancel()

    def _take(self) -> list[Record]:
        """Up to unit_max_records / unit_max_bytes records of one topic from the queue; at least one."""
        queue, limits, size = self._queue, self.limits, 0
        most = min(limits.unit_max_records, self._parts.breaker.allowance())
        taken: list[Record] = []
        topic = queue[0][1][0].topic
        while queue and queue[0][1][0].topic == topic and len(taken) < most:
            fetched_at, records = queue.popleft()
            count = min(len(records), most - len(taken))
            sizes = [len(record.value or b"") for record in records[:count]]
            if size + sum(sizes) > limits.unit_max_bytes:
                count = _fitting(sizes, limits.unit_max_bytes - size) or (0 if taken else 1)
            if count < len(records):
                queue.appendleft((fetched_at, records[count:]))
            if not count:
                break
            taken += records[:count]
            size += sum(sizes[:count])
        self.queued -= len(taken)
        if self.paused and self.queued <= limits.low_water:
            self._pause(False)
        return taken

    async def _publish(self, unit: Unit) -> None:
        unit.marker = self.progress.advance(unit.computed)
        unit.computed_at = time.perf_counter()
        self._in_flight.append(unit)
        self._records_in_flight += len(unit.computed.records)
        self._unacked += 1
        await self._parts.delivery.publish(self, unit)

    # -- for the delivery -------------------------------------------------------------------------

    def on_acked(self) -> None:
        """A unit can become durable: its outputs are where the guarantee wants them by now."""
        self._unacked -= 1
        self._work.set()
        self._acked.set()

    @property
    def can_settle(self) -> bool:
        """There is something to make durable."""
        return bool(self._repairs or (self._in_flight and self._in_flight[0].is_acked))

    async def has_acked(self) -> bool:
        """Wait until there is something to make durable; False: closed, and nothing is left."""
        while not self.can_settle:
            if self.closing and not self._in_flight and self._tasks[0].done():
                return False
            self._acked.clear()
            await self._acked.wait()
        return True

    async def pace(self, interval: float) -> None:
        """With little to write, wait for the next tick that all lanes share: one produce request serves them all.

        Outputs are visible by now, so this costs no latency; it saves a changelog request per unit and lane.
        """
        records = sum(len(unit.computed.records) for unit in self._in_flight if unit.is_acked)
        if records < self.limits.unit_max_records // 2 and not self.closing:
            await asyncio.sleep(interval - time.monotonic() % interval if interval else 0)

    def next_settlement(self) -> Settlement:
        """A repair first; else the oldest units that can become durable, as far as their state fits one RecordBatch."""
        if self._repairs:
            now, later = self._repairs[: self.limits.unit_max_records], self._repairs[self.limits.unit_max_records :]
            return Settlement.repair({key: self.state.store.get(key) for key in now}, later, self.progress.durable_marker)
        size = 0
        units: list[Unit] = []
        for unit in self._in_flight:
            size += unit.computed.changelog_size
            if not unit.is_acked or (units and size > self.limits.batch_bytes):
                break
            unit.raise_if_failed()
            units.append(unit)
        return Settlement.of(units)

    def make_durable(self, settlement: Settlement, base_offset: int) -> None:
        """The changelog has ``settlement`` from ``base_offset`` on: RocksDB follows, then everyone who follows RocksDB."""
        logged_at = time.perf_counter()
        stamp, units, writes = settlement.stamp(base_offset), settlement.units, settlement.writes
        self.state.store.apply(writes, stamp)
        previous = self.progress.durable(settlement.marker, stamp)
        self.state.settle(sum(unit.computed.runs for unit in units))
        self._repairs = settlement.repairs_left
        for unit in units:
            self._in_flight.popleft()
            self._records_in_flight -= len(unit.computed.records)
        self._work.set()
        with settlement.current_trace():
            self._parts.listener.unit_durable(self.id, writes, stamp, settlement.source_offset, previous)
        for unit in units:
            self.tiers.wrote(retry.topic for _, _, retry in unit.computed.retries)
            self._parts.observer.unit_done(unit.report(self.id, logged_at))

    # -- both -------------------------------------------------------------------------------------

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        self._parts.set_paused(paused)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._acked.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._parts.fatal(f"lane {self.id} cannot go on: {type(exc).__name__}: {exc}", exc)


def _sooner(one: float | None, other: float | None) -> float | None:
    """The shorter wait; None is for ever."""
    return min((wait for wait in (one, other) if wait is not None), default=None)


def _fitting(sizes: Sequence[int], room: int) -> int:
    """How many of ``sizes`` from the first on fit into ``room``."""
    return sum(1 for total in itertools.accumulate(sizes) if total <= room)

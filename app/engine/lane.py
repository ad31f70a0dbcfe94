"""A lane: one partition number of one agent. Takes records, runs units through the pipeline, keeps order.

Two tasks share the work. *compute* takes queued records, runs the agent's body and hands the outputs to
the producer; *settle* takes finished units in order: outputs acknowledged, then the changelog batch that
ends in the marker acknowledged, then one RocksDB write. At most ``unit_depth`` units are in between, so a
slow acknowledgement never idles the core and never grows memory. Nothing here catches a failed send: any
exception of either task ends the process, because going on could lose or double an event.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.engine.api import DeadLetterEncoder, LaneId, Record
from app.engine.compute import Computer
from app.engine.delivery import Delivery
from app.engine.marker import MARKER_KEY
from app.engine.progress import Progress
from app.engine.state import LaneState
from app.engine.status import DurableListener, Observer
from app.engine.unit import Unit
from app.engine.writer import changelog_batch

Fatal = Callable[[str, BaseException | None], None]


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Bounds of one lane; see the settings of the same names."""

    unit_max_records: int
    unit_max_bytes: int
    unit_depth: int
    high_water: int
    low_water: int
    batch_bytes: int
    drain_timeout_s: float


@dataclass(frozen=True, slots=True)
class LaneParts:
    """What a lane works with; built by the engine, all fakeable."""

    computer: Computer
    state: LaneState
    delivery: Delivery
    dead_letter: DeadLetterEncoder
    observer: Observer
    listener: DurableListener
    fatal: Fatal
    set_paused: Callable[[bool], None]
    """Pause or resume fetching of this lane's partitions"""


class Lane:
    """One partition number of one agent, from fetched records to durable state."""

    def __init__(self, lane: LaneId, changelog_topic: str, parts: LaneParts, limits: LaneLimits, progress: Progress) -> None:
        self.id = lane
        self.changelog_topic = changelog_topic
        self.progress = progress
        self.state = parts.state
        self.paused = False
        self._parts = parts
        self._limits = limits
        self.queued = 0
        """records fetched and not yet taken into a unit"""
        self._queue: deque[Sequence[Record]] = deque()
        """as they were fetched: lists of one topic"""
        self._in_flight: deque[Unit] = deque()
        self._work = asyncio.Event()
        self._computed = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def units_in_flight(self) -> int:
        """Units published but not yet durable."""
        return len(self._in_flight)

    def start(self) -> None:
        """Begin to work; must be called on the running loop."""
        for work in (self._compute(), self._settle()):
            task = asyncio.get_running_loop().create_task(work, name=f"lane-{self.id}")
            task.add_done_callback(self._on_task_done)
            self._tasks.append(task)

    def offer(self, records: Sequence[Record]) -> None:
        """Queue fetched records of one topic, in offset order. Ignored once closing: they are fetched again."""
        records = self.progress.unseen(records)
        if self._closing or not records:
            return
        self._queue.append(records)
        self.queued += len(records)
        if self.queued > self._limits.high_water and not self.paused:
            self._pause(True)
        self._work.set()

    async def close(self) -> None:
        """Drop what is queued, finish the units in flight, stop. Bounded: exits the process when it takes too long."""
        self._closing = True
        self._queue.clear()
        self.queued = 0
        self._work.set()
        _, unfinished = await asyncio.wait(self._tasks, timeout=self._limits.drain_timeout_s)
        if unfinished:
            self._parts.fatal(
                f"lane {self.id}: {len(self._in_flight)} units did not finish in {self._limits.drain_timeout_s} s", None
            )
        await self._parts.listener.lane_stopped(self.id)

    # -- compute ----------------------------------------------------------------------------------

    async def _compute(self) -> None:
        while True:
            while not self._closing and (not self._queue or self._is_full()):
                await self._wait_for_work()
            if self._closing:
                return
            started = time.perf_counter()
            for computed in await self._parts.computer.run(self._take()):
                while self._is_full():
                    await self._wait_for_work()
                await self._publish(Unit(computed, started))
            await asyncio.sleep(0)  # other lanes, heartbeats and the sidecar come first now

    def _is_full(self) -> bool:
        return len(self._in_flight) >= self._limits.unit_depth

    async def _wait_for_work(self) -> None:
        self._work.clear()
        await self._work.wait()

    def _take(self) -> list[Record]:
        """Up to unit_max_records / unit_max_bytes records of one topic from the queue; at least one."""
        queue, limits, size = self._queue, self._limits, 0
        taken: list[Record] = []
        topic = queue[0][0].topic
        while queue and queue[0][0].topic == topic and len(taken) < limits.unit_max_records:
            records = queue.popleft()
            count = min(len(records), limits.unit_max_records - len(taken))
            sizes = [len(record.value or b"") for record in records[:count]]
            if size + sum(sizes) > limits.unit_max_bytes:
                count = _fitting(sizes, limits.unit_max_bytes - size) or (0 if taken else 1)
            if count < len(records):
                queue.appendleft(records[count:])
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
        batches = unit.output_batches(self._parts.dead_letter, self._limits.batch_bytes)
        unit.acks = await self._parts.delivery.publish(self.id.partition, batches)
        self._in_flight.append(unit)
        self._computed.set()

    # -- settle -----------------------------------------------------------------------------------

    async def _settle(self) -> None:
        while True:
            while not self._in_flight:
                if self._closing and self._tasks[0].done():
                    return
                self._computed.clear()
                await self._computed.wait()
            unit = self._in_flight[0]
            for ack in unit.acks:
                await ack
            unit.mark_visible()
            await self._make_durable(unit)
            self._in_flight.popleft()
            self._work.set()

    async def _make_durable(self, unit: Unit) -> None:
        writes = unit.computed.writes
        writes[MARKER_KEY] = unit.marker
        batch = changelog_batch(self.changelog_topic, writes, unit.visible_ms, self._limits.batch_bytes)
        unit.changelog_bytes = batch.size()
        base = await self._parts.delivery.log_state(self.changelog_topic, self.id.partition, batch)
        unit.logged_at = time.perf_counter()
        stamp = base + len(writes) - 1
        self.state.store.apply(writes, stamp)
        previous = self.progress.durable(unit.computed, stamp)
        self.state.settle(unit.computed.runs)
        self._parts.listener.unit_durable(self.id, writes, stamp, unit.computed.records[-1].offset, previous)
        self._parts.observer.unit_done(unit.report(self.id))

    # -- both -------------------------------------------------------------------------------------

    def _pause(self, paused: bool) -> None:
        self.paused = paused
        self._parts.set_paused(paused)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._computed.set()
        if not task.cancelled() and (exc := task.exception()) is not None:
            self._parts.fatal(f"lane {self.id} cannot go on: {type(exc).__name__}: {exc}", exc)


def _fitting(sizes: Sequence[int], room: int) -> int:
    """How many of ``sizes`` from the first on fit into ``room``."""
    return sum(1 for total in itertools.accumulate(sizes) if total <= room)

"""A lane with a real RocksDB, a producer that answers when told, and an agent that counts per key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rocksdict import Cache, WriteBufferManager

from app.engine.api import Batch, Body, Effects, Failure, LaneId, Output, Record, Retry, View
from app.engine.compute import Computer
from app.engine.declare import AgentDeclaration
from app.engine.delivery import AtLeastOnce, Delivery
from app.engine.engine import Engine, EngineParts
from app.engine.lane import Lane, LaneLimits, LaneParts, Ticks
from app.engine.progress import Progress
from app.engine.state import LaneState
from app.engine.status import LaneTable, UnitReport
from app.engine.store import PartitionStore, StoreOptions
from app.engine.tiers import Tiers
from app.engine.tracing import PassOn, Tracing
from app.settings import Settings
from tests.fakes import FakeDelivery, FakeRecord

SOURCE, OUT, DLQ, CHANGELOG = "source", "out", "dlq", "app-count-changelog"
LANE = LaneId("count", 0)
#: Key to how often it was counted, as decimal digits.
COUNTS: View[int] = View("counts", b"c", lambda count: b"%d" % count, int)


def small_options() -> StoreOptions:
    """A RocksDB that opens fast."""
    return StoreOptions(1024**2, 32, Cache(1024**2), WriteBufferManager(64 * 1024**2, False))


def event(offset: int, key: str = "u", value: bytes = b"emit", topic: str = SOURCE) -> FakeRecord:
    """A source record; its value tells ``count`` what to do with it."""
    return FakeRecord(value, key.encode(), offset, timestamp=1_700_000_000_000 + offset, topic=topic)


def events(start: int, stop: int, key: str = "u", value: bytes = b"emit") -> list[FakeRecord]:
    """Consecutive source records."""
    return [event(offset, key, value) for offset in range(start, stop)]


class FakeRetries:
    """Two tiers. A record waits for ``due_ms`` on the clock of the test, and is given up after ``limit`` attempts.

    A header ``origin`` tells which event of the source a record is, ``discarded`` that it only says that one was.
    """

    source = SOURCE
    topics = ("retry.1", "retry.2")

    def __init__(self, limit: int = 3) -> None:
        self.limit = limit
        self.due_ms = 0

    def plan(self, record: Record, now_ms: int) -> Retry | None:
        """The tier after the record's own."""
        attempt = (self.topics.index(record.topic) + 2) if record.topic in self.topics else 1
        return None if attempt > min(self.limit, len(self.topics)) else Retry(self.topics[attempt - 1], self.due_ms, attempt)

    def wait(self, record: Record, now_ms: int) -> Retry | None:
        """Always in the first tier."""
        return Retry(self.topics[0], self.due_ms, 0)

    def origin(self, record: Record) -> int:
        """As its header says."""
        return int(dict(record.headers).get("origin") or record.offset)

    def is_release(self, record: Record) -> bool:
        """As its header says."""
        return record.topic in self.topics and "discarded" in dict(record.headers)

    def arrived(self, record: Record) -> tuple[int, Record]:
        """The offset is the time at which it is due."""
        return record.offset, record


class PoisonPill(Exception):
    """What ``count`` raises for the value ``boom``."""


async def count(batch: Batch[Any]) -> Effects:
    """Counts records per key. A record's value is its outcome: emit, dup, drop, dead, later, slow (times out) or boom (raises)."""
    effects, counts = batch.effects(), batch.state.view(COUNTS)
    known = counts.get_many((record.key or b"").decode() for record in batch.records)
    for record in batch.records:
        key = (record.key or b"").decode()
        match record.value:
            case b"emit":
                known[key] = known.get(key, 0) + 1
                counts.put(key, known[key])
                effects.emit(record, Output(OUT, record.key, b"%d" % known[key]))
            case b"dup":
                effects.duplicate(record)
            case b"drop":
                effects.drop(record, "test")
            case b"dead":
                effects.dead_letter(record, Failure("validate", "bad"))
            case b"later":
                effects.retry(record, Failure("enrich", "unavailable", disposition="transient_timeout"))
            case b"slow":
                raise TimeoutError
            case _:
                counts.put(key, 1_000_000)  # must leave no trace
                raise PoisonPill(record.value)
    return effects


def dead_letter(record: Record, failure: Failure, failed_at_ms: int, retry: Retry | None = None) -> Output:
    """A dead letter with its reason and its trace as its only headers, or what waits in a retry tier."""
    headers = [("reason", failure.reason.encode()), *([("trace", failure.traceparent)] if failure.traceparent else [])]
    return Output(DLQ if retry is None else retry.topic, record.key, record.value, tuple(headers))


@dataclass
class FakeObserver:
    """Keeps what it is told."""

    units: list[UnitReport] = field(default_factory=list)
    commits: list[bool] = field(default_factory=list)
    restores: list[tuple[LaneId, int, int]] = field(default_factory=list)

    def unit_done(self, report: UnitReport) -> None:
        self.units.append(report)

    def committed(self, seconds: float, ok: bool) -> None:
        self.commits.append(ok)

    def restored(self, lane: LaneId, records: int, size: int) -> None:
        self.restores.append((lane, records, size))

    def rebalanced(self, seconds: float, partitions: int) -> None: ...


@dataclass
class FakeListener:
    """Keeps what it is told: (stamp, previous, last source offset) per unit."""

    started: list[LaneTable] = field(default_factory=list)
    units: list[tuple[int, int, int]] = field(default_factory=list)
    stopped: list[LaneId] = field(default_factory=list)

    def lane_started(self, table: LaneTable) -> None:
        self.started.append(table)

    def unit_durable(
        self, lane: LaneId, writes: Mapping[bytes, bytes | None], stamp: int, source_offset: int, previous: int
    ) -> None:
        self.units.append((stamp, previous, source_offset))

    async def lane_stopped(self, lane: LaneId) -> None:
        self.stopped.append(lane)


@dataclass
class FakeFatal:
    """Keeps the reasons for which the process would have ended."""

    reasons: list[str] = field(default_factory=list)

    def __call__(self, reason: str, exc: BaseException | None) -> None:
        self.reasons.append(reason)


@dataclass
class Rig:
    """One lane and everything around it."""

    store: PartitionStore
    delivery: FakeDelivery
    observer: FakeObserver
    listener: FakeListener
    fatal: FakeFatal
    pauses: list[bool]
    lane: Lane

    def count(self, key: str = "u") -> int:
        """The durable count of a key."""
        return int(self.store.get(COUNTS.raw_key(key)) or 0)

    @property
    def durable(self) -> int:
        """The next source offset to apply, durable; -1 when nothing ever was."""
        return self.lane.progress.next_offset(SOURCE)

    async def acknowledge_all(self) -> None:
        """Acknowledge, oldest first, until nothing more is sent."""
        await acknowledge_all(self.delivery)

    async def acknowledge_outputs(self) -> None:
        """Acknowledge outputs alone; changelog batches wait."""
        await settle()
        for sent in self.delivery.outputs:
            if not sent.answer.done():
                sent.ack()
        await settle()

    async def stop(self) -> None:
        """End the tasks without ceremony, whatever they wait for."""
        for task in self.lane._tasks:
            task.cancel()
        await asyncio.gather(*self.lane._tasks, return_exceptions=True)


def lane_limits(**changes: Any) -> LaneLimits:
    """Bounds that no test meets by chance."""
    values: dict[str, Any] = {
        "unit_max_records": 100,
        "unit_max_bytes": 100_000,
        "unit_depth": 3,
        "settle_interval_s": 0.0,
        "high_water": 1000,
        "low_water": 500,
        "batch_bytes": 100_000,
        "drain_timeout_s": 1.0,
    }
    return LaneLimits(**(values | changes))


def new_rig(
    store: PartitionStore,
    body: Body = count,
    delivery: FakeDelivery | None = None,
    hot: int = 1000,
    lane: LaneId = LANE,
    settle_by: Delivery | None = None,
    views: tuple[View[Any], ...] = (),
    ticks: Ticks | None = None,
    retries: FakeRetries | None = None,
    tiers: Tiers | None = None,
    tracing: Tracing | None = None,
    **limits: Any,
) -> Rig:
    """A lane that is not started yet; positions are those of ``store``. At least once unless ``settle_by`` is given."""
    bounds, pauses = lane_limits(**limits), list[bool]()
    delivery, observer, listener, fatal = delivery or FakeDelivery(), FakeObserver(), FakeListener(), FakeFatal()
    state = LaneState(store, hot, views)
    computer = Computer(lane, body, None, state, bounds.batch_bytes, retries=retries)
    deliver = settle_by or AtLeastOnce(delivery, dead_letter)
    parts = LaneParts(
        computer,
        state,
        deliver,
        observer,
        listener,
        fatal,
        pauses.append,
        tiers or Tiers(),
        ticks=ticks,
        tracing=tracing or PassOn(),
    )
    progress = Progress(store.marker(), store.changelog_offset())
    progress.committed[SOURCE] = -1
    return Rig(store, delivery, observer, listener, fatal, pauses, Lane(lane, CHANGELOG, parts, bounds, progress))


def open_store(path: Path) -> PartitionStore:
    """A store of its own."""
    return PartitionStore(path / "count-0.db", small_options())


def agent(body: Body = count, setup: Callable[[Settings], Any] = lambda settings: None) -> AgentDeclaration:
    """The declaration of ``count`` over the source topic."""
    return AgentDeclaration("count", SOURCE, body, (COUNTS,), setup, "Counts.")


@dataclass
class EngineRig:
    """An engine and everything around it."""

    settings: Settings
    agents: tuple[AgentDeclaration, ...]
    delivery: FakeDelivery
    observer: FakeObserver
    listener: FakeListener
    fatal: FakeFatal
    engine: Engine

    @classmethod
    def new(cls, data_dir: Path, *agents: AgentDeclaration, **changes: Any) -> EngineRig:
        """An engine over ``data_dir`` with small databases; ``changes`` are settings."""
        small = {"rocksdb_write_buffer_bytes": 1024**2, "rocksdb_block_cache_bytes": 1024**2, "drain_timeout_ms": 500}
        settings, declared = Settings(data_dir=data_dir, **({"settle_interval_ms": 0} | small | changes)), agents or (agent(),)
        delivery, observer, listener, fatal = FakeDelivery(), FakeObserver(), FakeListener(), FakeFatal()
        engine = Engine(EngineParts(settings, declared, AtLeastOnce(delivery, dead_letter), observer, listener, fatal))
        return cls(settings, declared, delivery, observer, listener, fatal, engine)

    async def acknowledge_all(self) -> None:
        """Acknowledge, oldest first, until nothing more is sent."""
        await acknowledge_all(self.delivery)

    async def shut(self) -> None:
        """Acknowledge what waits, stop all lanes, close all stores."""
        self.delivery.acknowledge = True
        for sent in self.delivery.unanswered():
            sent.ack()
        await self.engine.close_lanes()
        for changelog, partition in list(self.engine.stores):
            self.engine.close_store(changelog, partition)


async def acknowledge_all(delivery: FakeDelivery) -> None:
    """Acknowledge, oldest first, until nothing more is sent."""
    await settle()
    while unanswered := delivery.unanswered():
        for sent in unanswered:
            sent.ack()
        await settle()


async def settle(turns: int = 25) -> None:
    """Let every task run until it waits for something that only the test can give."""
    for _ in range(turns):
        await asyncio.sleep(0)


def offsets(records: Sequence[Record]) -> list[int]:
    """Their offsets."""
    return [record.offset for record in records]

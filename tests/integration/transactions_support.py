"""Lanes of a worker over real transactional producers that can be held at an exact step, and what readers see of them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]

from app.engine.api import LaneId
from app.engine.store import PartitionStore
from app.engine.transactions import ExactlyOnce, TransactionalProducer, TransactionParts
from app.kafka_clients import client_options, transactional_producer
from app.settings import Settings
from tests.engine.support import CHANGELOG, OUT, SOURCE, FakeObserver, Rig, dead_letter, events, new_rig, open_store
from tests.integration import truth

GROUPS = 5
WAIT_S = 30.0
#: Broker settings: what timed out is aborted soon (the default is 10 s), and a broker that stands still stays its
#: partitions' leader. While a partition has no leader, Kafka 4.4 takes it for deleted and drops the markers that are due to
#: it: an aborted transaction's records then become visible with the next one of the same id (KAFKA-20734).
QUICK_ABORT = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200", "broker.session.timeout.ms": "30000"}


@dataclass
class Tap:
    """Every producer of a worker: counts its calls, and holds one of them back."""

    settings: Settings
    calls: Counter[str] = field(default_factory=Counter)
    hold: str = ""
    """start, begin, send1 (the first of a transaction), send2, ..., offsets or commit"""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    resume: asyncio.Event = field(default_factory=asyncio.Event)
    made: list[AIOKafkaProducer] = field(default_factory=list)

    def producer(self, transactional_id: str) -> TransactionalProducer:
        """A real one, tapped."""
        self.made.append(transactional_producer(self.settings, transactional_id))
        return Tapped(self.made[-1], self)

    def hold_next(self, step: str) -> None:
        """Hold the next call of ``step``."""
        self.hold = step
        self.reached.clear()
        self.resume.clear()

    async def before(self, step: str) -> None:
        """Count, and wait if this step is the one."""
        self.calls[step] += 1
        if step == self.hold:
            self.hold = ""
            self.reached.set()
            await self.resume.wait()


class Tapped:
    """A transactional producer behind a tap."""

    def __init__(self, producer: AIOKafkaProducer, tap: Tap) -> None:
        self._producer = producer
        self._tap = tap
        self._sent = 0

    async def start(self) -> None:
        await self._step("start", self._producer.start())

    async def stop(self) -> None:
        await self._producer.stop()

    async def begin_transaction(self) -> None:
        self._sent = 0
        await self._step("begin", self._producer.begin_transaction())

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        self._sent += 1
        sent = await self._step(f"send{self._sent}", self._producer.send_batch(batch, topic, partition=partition))
        return cast("asyncio.Future[Any]", sent)

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group_id: str) -> None:
        await self._step("offsets", self._producer.send_offsets_to_transaction(offsets, group_id))

    async def commit_transaction(self) -> None:
        await self._step("commit", self._producer.commit_transaction())

    async def _step(self, name: str, call: Coroutine[Any, Any, Any]) -> Any:
        try:
            await self._tap.before(name)
        except BaseException:
            call.close()
            raise
        return await call


@dataclass
class Worker:
    """What a worker has beside Faust: transactions, lanes, stores."""

    settings: Settings
    path: Path
    tap: Tap
    consumer: AIOKafkaConsumer
    exactly_once: ExactlyOnce = field(init=False)
    member: bool = True
    rigs: dict[int, Rig] = field(default_factory=dict)
    stores: list[PartitionStore] = field(default_factory=list)
    observer: FakeObserver = field(default_factory=FakeObserver)

    def __post_init__(self) -> None:
        parts = TransactionParts(
            app_id=self.settings.app_id,
            groups=GROUPS,
            interval_s=0.0,
            new_producer=self.tap.producer,
            is_member=self._is_member,
            committed=self.commits,
            dead_letter=dead_letter,
            observer=self.observer,
        )
        self.exactly_once = ExactlyOnce(parts)

    async def _is_member(self) -> bool:
        return self.member

    async def commits(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        wanted = list(tps)
        found = await self.consumer._coordinator.fetch_committed_offsets(wanted)
        return {tp: found.get(tp, OffsetAndMetadata(-1, "")) for tp in wanted}

    async def committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's offsets."""
        found = {tp: await self.consumer.committed(tp) for tp in tps}
        return {tp: -1 if offset is None else offset for tp, offset in found.items()}

    async def open(self, *partitions: int) -> None:
        """Take the groups over and start lanes on what the predecessors left: state restored, positions read."""
        held = self.exactly_once._groups
        self.exactly_once._groups = {}
        await self.exactly_once.acquire(partitions)
        self.exactly_once._groups |= held  # a rebalance would give up the others
        for partition in partitions:
            store = open_store(self.path / str(len(self.stores)))
            self.stores.append(store)
            await self._restore(store, partition)
            rig = new_rig(store, lane=LaneId("count", partition), settle_by=self.exactly_once, drain_timeout_s=20.0)
            source = TopicPartition(SOURCE, partition)
            rig.lane.progress.committed[SOURCE] = (await self.committed([source]))[source]
            rig.lane.progress.start_at(SOURCE, max(0, rig.durable))
            rig.lane.start()
            self.rigs[partition] = rig

    async def _restore(self, store: PartitionStore, partition: int) -> None:
        tp = TopicPartition(CHANGELOG, partition)
        self.consumer.assign([tp])
        await self.consumer.seek_to_beginning(tp)
        end = (await self.consumer.end_offsets([tp]))[tp]
        while await self.consumer.position(tp) < end:
            records = (await self.consumer.getmany(timeout_ms=100)).get(tp)
            if records:
                store.restore(cast("list[Any]", records), records[-1].offset + 1)

    async def close(self) -> None:
        """Stop everything, whatever it waits for."""
        self.tap.resume.set()
        for rig in self.rigs.values():
            await rig.stop()
        for group in self.exactly_once._groups.values():
            if group._turn is not None:
                group._turn.cancel()
                await asyncio.gather(group._turn, return_exceptions=True)
        await asyncio.gather(*map(stop, self.tap.made), self.consumer.stop())
        for store in self.stores:
            store.close()


MakeWorker = Callable[[Settings], Coroutine[Any, Any, Worker]]


@asynccontextmanager
async def workers_in(path: Path) -> AsyncIterator[MakeWorker]:
    """Makes workers, and closes them all at the end."""
    made: list[Worker] = []

    async def make(settings: Settings) -> Worker:
        options = client_options(settings)
        consumer = AIOKafkaConsumer(**options, group_id=settings.app_id, enable_auto_commit=False, isolation_level="read_committed")
        await consumer.start()
        made.append(Worker(settings, path / f"lanes-{len(made)}", Tap(settings), consumer))
        return made[-1]

    yield make
    for worker in made:
        await worker.close()


async def until(done: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Wait for it; a test that waits in vain fails."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


async def outputs(settings: Settings, topic: str = OUT) -> dict[int, list[bytes]]:
    """What a read_committed reader sees, by partition."""
    found: dict[int, list[bytes]] = {}
    for message in await asyncio.to_thread(truth.read, settings, topic):
        found.setdefault(cast("int", message.partition()), []).append(message.value() or b"")
    return found


async def assert_outputs(settings: Settings, expected: Mapping[int, list[bytes]], topic: str = OUT) -> None:
    """What readers see becomes ``expected``: a commit is answered a little before its markers are in every log."""
    deadline = time.monotonic() + 5.0
    while (seen := await outputs(settings, topic)) != expected and time.monotonic() < deadline:  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.05)
    assert seen == expected


async def group_offset(worker: Worker, partition: int, expected: int) -> int:
    """The group's offset, once it is ``expected`` or two seconds have passed."""
    source, deadline = TopicPartition(SOURCE, partition), time.monotonic() + 2.0
    while (offset := (await worker.committed([source]))[source]) != expected and time.monotonic() < deadline:  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.01)
    return offset


def counts(stop: int) -> list[bytes]:
    """What ``count`` emits for one key, once and in order."""
    return [b"%d" % n for n in range(1, stop + 1)]


async def feed(rigs: Iterable[Rig], start: int, stop: int) -> None:
    """Offer events and wait until they are durable, or their worker ends."""
    rigs = list(rigs)
    for rig in rigs:
        rig.lane.offer(events(start, stop))
    await durable(rigs, stop)


async def durable(rigs: Iterable[Rig], stop: int) -> None:
    """Wait until all are durable up to ``stop``, or their worker ends."""
    await until(lambda: all(rig.durable == stop or rig.fatal.reasons for rig in rigs))


@asynccontextmanager
async def producer(settings: Settings, transactional_id: str) -> AsyncIterator[AIOKafkaProducer]:
    """A started transactional producer."""
    one = transactional_producer(settings, transactional_id)
    await one.start()
    try:
        yield one
    finally:
        await stop(one)


async def stop(one: AIOKafkaProducer) -> None:
    """Stop a producer; one that is fenced in the middle of a request raises, and leaves its connections open."""
    try:
        await one.stop()
    except KafkaError:
        await one.client.close()


def set_max_message_bytes(settings: Settings, topic: str, size: int) -> None:
    """Change a topic while it is written to; returns once the broker acts on it."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    for done in admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]).values():
        done.result()
    time.sleep(0.1)  # the answer comes from the controller, a little before the broker has heard of it

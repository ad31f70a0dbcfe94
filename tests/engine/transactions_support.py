"""A Kafka with transactions in memory, and the lanes of one worker over it.

``FakeKafka`` keeps what brokers keep: transactions by id, logs with markers, the group's offsets. Its producers can
fail at each step, also after the step took effect.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import OffsetAndMetadata

from app.engine.api import LaneId
from app.engine.marker import MARKER_KEY, REPAIR_KEY, encode_keys
from app.engine.store import PartitionStore
from app.engine.transactions import ExactlyOnce, TransactionParts
from tests.engine.support import COUNTS, FakeObserver, Rig, dead_letter, new_rig, open_store, settle
from tests.fakes import Produced, produced

APP = "app"


class Metadata(NamedTuple):
    """What a send's future gives."""

    offset: int


@dataclass(eq=False)
class Open:
    """A transaction under way."""

    sends: list[tuple[TopicPartition, int, list[Produced]]] = field(default_factory=list)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)


@dataclass
class FakeKafka:
    """Brokers and coordinators; ``calls`` holds what every producer was told, as (step, transactional id)."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    fail: dict[str, deque[BaseException | None]] = field(default_factory=lambda: defaultdict(deque))
    """step -> what the next calls raise; ``committed`` fails after the commit took effect"""
    group: dict[TopicPartition, int] = field(default_factory=dict)
    notes: dict[TopicPartition, str] = field(default_factory=dict)
    """beside the group's offsets"""
    logs: dict[TopicPartition, list[Produced | None]] = field(default_factory=lambda: defaultdict(list))
    """every record, aborted ones too; None: a transaction's marker"""
    visible: dict[TopicPartition, list[tuple[int, Produced]]] = field(default_factory=lambda: defaultdict(list))
    """(offset, record) of committed transactions"""
    transactions: list[Open] = field(default_factory=list)
    """the committed ones"""
    epochs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    opened: dict[str, Open] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)
    """When each transaction began, monotonic seconds"""
    flags: list[bool] = field(default_factory=list)
    """whether each batch sent says that it is part of a transaction"""
    held: list[Callable[[], None]] | None = None
    """acknowledgements that wait, when it is a list"""
    gate: asyncio.Event | None = None
    """commits wait for it"""
    members: deque[bool | KafkaError] = field(default_factory=deque)
    """answers to the next questions whether we are a member; then: yes"""
    at_takeover: Callable[[str], None] = lambda transactional_id: None
    """what happens elsewhere just before a producer starts"""

    def producer(self, transactional_id: str) -> FakeProducer:
        """A new one."""
        self.calls.append(("new", transactional_id))
        return FakeProducer(self, transactional_id)

    async def is_member(self) -> bool:
        """A scripted answer."""
        self.calls.append(("member", ""))
        answer = self.members.popleft() if self.members else True
        if isinstance(answer, KafkaError):
            raise answer
        return answer

    async def committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, OffsetAndMetadata]:
        """The group's offsets."""
        self.calls.append(("committed?", ""))
        self.raise_next("offsets?")
        return {tp: OffsetAndMetadata(self.group.get(tp, -1), self.notes.get(tp, "")) for tp in tps}

    def raise_next(self, step: str) -> None:
        """Fail as scripted."""
        if self.fail[step] and (exc := self.fail[step].popleft()) is not None:
            raise exc

    def end(self, transactional_id: str, *, commit: bool) -> None:
        """Complete or abort what the id has open."""
        one = self.opened.pop(transactional_id, Open())
        for tp in {tp for tp, _, _ in one.sends}:
            self.logs[tp].append(None)
        if commit:
            self.transactions.append(one)
            self.group |= one.offsets
            self.notes |= one.notes
            for tp, base, records in one.sends:
                self.visible[tp] += [(base + n, record) for n, record in enumerate(records)]

    def steps(self) -> list[str]:
        """The steps alone."""
        return [step for step, _ in self.calls]

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        """What a read_committed reader sees, markers of units left out."""
        return [record.value for _, record in self.visible[TopicPartition(topic, partition)] if record.key != MARKER_KEY]

    def transact(self, transactional_id: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Another worker takes the id over and commits."""
        self.end(transactional_id, commit=False)
        self.epochs[transactional_id] += 1
        self.group |= offsets


class FakeProducer:
    """A transactional producer of :class:`FakeKafka`."""

    def __init__(self, kafka: FakeKafka, transactional_id: str) -> None:
        self._kafka = kafka
        self._id = transactional_id
        self._epoch = -1

    async def start(self) -> None:
        """Fences the former users of the id."""
        self._call("start", fenced=False)
        self._kafka.at_takeover(self._id)
        self._kafka.raise_next("start")
        self._kafka.end(self._id, commit=False)
        self._kafka.epochs[self._id] += 1
        self._epoch = self._kafka.epochs[self._id]

    async def stop(self) -> None:
        """Leaves what is open to the broker."""
        self._call("stop", fenced=False)

    async def begin_transaction(self) -> None:
        """Nothing reaches the broker yet."""
        self._call("begin")
        assert self._id not in self._kafka.opened, "one transaction at a time"
        self._kafka.opened[self._id] = Open()
        self._kafka.began.append(time.monotonic())

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Queues; the answer comes on a later turn of the loop."""
        self._call("send")
        kafka, answer = self._kafka, asyncio.get_running_loop().create_future()
        kafka.flags.append(MemoryRecords(bytes(batch._build())).next_batch().is_transactional)
        tp, records = TopicPartition(topic, partition), produced(batch)

        def acknowledge() -> None:
            try:
                kafka.raise_next("ack")
                self._check_epoch()
            except KafkaError as exc:
                answer.set_exception(exc)
                return
            kafka.opened[self._id].sends.append((tp, len(kafka.logs[tp]), records))
            answer.set_result(Metadata(len(kafka.logs[tp])))
            kafka.logs[tp] += records

        if kafka.held is None:
            asyncio.get_running_loop().call_soon(acknowledge)
        else:
            kafka.held.append(acknowledge)
        return answer

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group_id: str) -> None:
        """Part of the transaction."""
        self._call("offsets")
        assert group_id == APP
        opened = self._kafka.opened[self._id]
        opened.offsets |= {tp: commit.offset for tp, commit in offsets.items()}
        opened.notes |= {tp: commit.metadata for tp, commit in offsets.items()}

    async def commit_transaction(self) -> None:
        """May fail before it took effect (``commit``) and after (``committed``)."""
        self._call("commit")
        if self._kafka.gate is not None:
            await self._kafka.gate.wait()
        self._kafka.end(self._id, commit=True)
        self._kafka.raise_next("committed")

    def _call(self, step: str, *, fenced: bool = True) -> None:
        self._kafka.calls.append((step, self._id))
        if fenced:
            self._check_epoch()
        if step != "start":
            self._kafka.raise_next(step)

    def _check_epoch(self) -> None:
        if self._epoch != self._kafka.epochs[self._id]:
            raise ProducerFenced


@dataclass
class World:
    """Lanes of one worker over one fake Kafka."""

    kafka: FakeKafka
    exactly_once: ExactlyOnce
    observer: FakeObserver
    path: Path
    rigs: list[Rig] = field(default_factory=list)
    stores: list[PartitionStore] = field(default_factory=list)

    async def lane(self, partition: int = 0, store: PartitionStore | None = None, **limits: Any) -> Rig:
        """A started lane; its group must be acquired."""
        if store is None:
            store = open_store(self.path / str(partition))
            self.stores.append(store)
        rig = new_rig(store, lane=LaneId("count", partition), settle_by=self.exactly_once, **limits)
        self.rigs.append(rig)
        rig.lane.start()
        await settle()
        return rig

    async def one_lane(self, **limits: Any) -> Rig:
        """A lane of partition 0 and its group."""
        await self.exactly_once.acquire([0])
        return await self.lane(**limits)

    def take(self) -> list[str]:
        """Steps since the last call."""
        steps = self.kafka.steps()
        self.kafka.calls.clear()
        return steps


MakeWorld = Callable[..., World]


@asynccontextmanager
async def worlds(path: Path) -> AsyncIterator[MakeWorld]:
    """Makes worlds (arguments: groups, interval_s, kafka) and stops what is left of their lanes at the end."""
    made: list[World] = []

    def make(groups: int = 4, interval_s: float = 0.0, kafka: FakeKafka | None = None) -> World:
        kafka, observer = kafka or FakeKafka(), FakeObserver()
        parts = TransactionParts(APP, groups, interval_s, kafka.producer, kafka.is_member, kafka.committed, dead_letter, observer)
        made.append(World(kafka, ExactlyOnce(parts), observer, path / str(len(made))))
        return made[-1]

    yield make
    for world in made:
        for rig in world.rigs:
            await rig.stop()
        for store in world.stores:
            store.close()


def in_need_of_repair(world: World) -> PartitionStore:
    """A store in which a zombie's key waits to be written again."""
    store = open_store(world.path / "repair")
    world.stores.append(store)
    store.apply({COUNTS.raw_key("u"): b"7", REPAIR_KEY: encode_keys([COUNTS.raw_key("u")])}, 3)
    return store

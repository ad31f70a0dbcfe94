"""Exactly once: the order inside a transaction, and what happens when any step of it fails.

``FakeKafka`` keeps what brokers keep: transactions by id, logs with markers, the group's offsets. Its producers can
fail at each step, also after the step took effect.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    ProducerFenced,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from app.engine import transactions
from app.engine.api import LaneId
from app.engine.marker import MARKER_KEY, REPAIR_KEY, decode_marker, encode_keys
from app.engine.store import PartitionStore
from app.engine.transactions import ATTEMPTS, ExactlyOnce, NotOurs, TransactionParts
from tests.engine.support import (
    CHANGELOG,
    COUNTS,
    DLQ,
    OUT,
    SOURCE,
    FakeObserver,
    Rig,
    dead_letter,
    event,
    events,
    new_rig,
    open_store,
    settle,
)
from tests.fakes import Produced, produced

APP = "app"
STEPS = ("begin", "send", "ack", "offsets", "commit")


class Metadata(NamedTuple):
    """What a send's future gives."""

    offset: int


@dataclass(eq=False)
class Open:
    """A transaction under way."""

    sends: list[tuple[TopicPartition, int, list[Produced]]] = field(default_factory=list)
    offsets: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass
class FakeKafka:
    """Brokers and coordinators; ``calls`` holds what every producer was told, as (step, transactional id)."""

    calls: list[tuple[str, str]] = field(default_factory=list)
    fail: dict[str, deque[BaseException | None]] = field(default_factory=lambda: defaultdict(deque))
    """step -> what the next calls raise; ``committed`` fails after the commit took effect"""
    group: dict[TopicPartition, int] = field(default_factory=dict)
    logs: dict[TopicPartition, list[Produced | None]] = field(default_factory=lambda: defaultdict(list))
    """every record, aborted ones too; None: a transaction's marker"""
    visible: dict[TopicPartition, list[tuple[int, Produced]]] = field(default_factory=lambda: defaultdict(list))
    """(offset, record) of committed transactions"""
    transactions: list[Open] = field(default_factory=list)
    """the committed ones"""
    epochs: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    opened: dict[str, Open] = field(default_factory=dict)
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

    async def committed(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's offsets."""
        self.calls.append(("committed?", ""))
        self.raise_next("offsets?")
        return {tp: self.group.get(tp, -1) for tp in tps}

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

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]:
        """Queues; the answer comes on a later turn of the loop."""
        self._call("send")
        kafka, answer = self._kafka, asyncio.get_running_loop().create_future()
        kafka.flags.append(MemoryRecords(bytes(batch._build())).next_batch().is_transactional)
        tp, records = TopicPartition(topic, partition), produced(batch)

        def acknowledge() -> None:
            try:
                kafka.raise_next("ack")
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

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, int], group_id: str) -> None:
        """Part of the transaction."""
        self._call("offsets")
        assert group_id == APP
        self._kafka.opened[self._id].offsets |= offsets

    async def commit_transaction(self) -> None:
        """May fail before it took effect (``commit``) and after (``committed``)."""
        self._call("commit")
        if self._kafka.gate is not None:
            await self._kafka.gate.wait()
        self._kafka.end(self._id, commit=True)
        self._kafka.raise_next("committed")

    def _call(self, step: str, *, fenced: bool = True) -> None:
        self._kafka.calls.append((step, self._id))
        if fenced and self._epoch != self._kafka.epochs[self._id]:
            raise ProducerFenced
        if step != "start":
            self._kafka.raise_next(step)


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


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., World]:
    """Worlds; arguments: groups, interval_s."""

    def new(groups: int = 4, interval_s: float = 0.0) -> World:
        kafka, observer = FakeKafka(), FakeObserver()
        parts = TransactionParts(APP, groups, interval_s, kafka.producer, kafka.is_member, kafka.committed, dead_letter, observer)
        return World(kafka, ExactlyOnce(parts), observer, tmp_path)

    return new


@pytest.fixture
async def world(make: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Four groups, no pacing, no back-off."""
    monkeypatch.setattr(transactions, "BACK_OFF_S", 0.0)
    one = make()
    yield one
    await shut(one)


async def shut(world: World) -> None:
    """Stop what is left of its lanes."""
    for rig in world.rigs:
        await rig.stop()
    for store in world.stores:
        store.close()


# -- the order inside a transaction -------------------------------------------------------------------


async def test_every_send_is_acknowledged_before_the_offsets_are_sent(world: World) -> None:
    world.kafka.held = []
    rig = await world.one_lane()
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle()
    assert len(world.kafka.held) == 3  # output, dead letter, changelog
    while world.kafka.held:
        assert not {"offsets", "commit"} & set(world.kafka.steps())
        world.kafka.held.pop()()
        await settle()
    assert world.kafka.steps()[-2:] == ["offsets", "commit"]


async def test_nothing_is_applied_nor_announced_before_the_commit(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    rig = await world.one_lane()
    rig.lane.offer(events(0, 3))
    await settle()
    assert world.kafka.steps()[-1] == "commit"
    assert (rig.store.get(COUNTS.raw_key("u")), rig.store.changelog_offset(), rig.durable) == (None, -1, -1)
    assert (rig.listener.units, rig.observer.units, rig.lane.progress.committed) == ([], [], {SOURCE: -1})
    world.kafka.gate.set()
    await settle()
    assert (rig.count(), rig.store.changelog_offset(), rig.durable) == (3, 1, 3)
    assert (rig.listener.units, len(rig.observer.units), rig.lane.progress.committed) == ([(1, -1, 2)], 1, {SOURCE: 3})


async def test_outputs_dead_letters_changelog_and_offsets_are_one_transaction(world: World) -> None:
    rig = await world.one_lane()
    rig.lane.offer([event(0), event(1, value=b"dead"), event(2)])
    await settle()
    (one,) = world.kafka.transactions
    assert [tp.topic for tp, _, _ in one.sends] == [OUT, DLQ, CHANGELOG]
    assert one.offsets == {TopicPartition(SOURCE, 0): 3}
    (letter,) = one.sends[1][2]
    assert letter.headers == (("reason", b"bad"),)
    assert decode_marker(one.sends[2][2][-1].value).next_offsets == {SOURCE: 3}


async def test_every_batch_says_that_it_is_part_of_a_transaction(world: World) -> None:
    """aiokafka sends others as they are: visible whatever becomes of the transaction."""
    rig = await world.one_lane(batch_bytes=500)
    rig.lane.offer([event(0, value=b"dead"), *events(1, 60)])
    await settle(60)
    assert (len(world.kafka.flags) > 5, set(world.kafka.flags)) == (True, {True})


async def test_stamps_are_changelog_offsets_over_markers_and_aborted_records(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].extend([None, ProducerFenced()])
    for offset in range(3):
        rig.lane.offer([event(offset)])
        await settle()
    log = world.kafka.visible[TopicPartition(CHANGELOG, 0)]
    assert [stamp for stamp, _, _ in rig.listener.units] == [offset for offset, record in log if record.key == MARKER_KEY]
    assert [previous for _, previous, _ in rig.listener.units] == [-1, 1, 7]
    assert rig.store.changelog_offset() == len(world.kafka.logs[TopicPartition(CHANGELOG, 0)]) - 2


async def test_a_turn_without_work_is_no_transaction(world: World) -> None:
    await world.one_lane()
    await world.exactly_once._groups[0].transact()
    assert "begin" not in world.kafka.steps()


# -- lanes of a group ---------------------------------------------------------------------------------


async def test_lanes_of_a_group_share_a_transaction_and_other_groups_have_theirs(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    await world.exactly_once.acquire(range(6))
    rigs = [await world.lane(partition) for partition in (0, 4, 1)]
    for rig in rigs:
        rig.lane.offer([event(0)])
    await settle()
    assert [call for call in world.kafka.calls if call[0] == "begin"] == [("begin", "app-0"), ("begin", "app-1")]
    world.kafka.gate.set()
    await settle()
    assert sorted(sorted(tp.partition for tp in one.offsets) for one in world.kafka.transactions) == [[0, 4], [1]]
    assert [rig.count() for rig in rigs] == [1, 1, 1]


async def test_at_most_one_transaction_of_a_group_is_under_way(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    await world.exactly_once.acquire([0, 4])
    first, second = await world.lane(0), await world.lane(4)
    first.lane.offer([event(0)])
    await settle()
    first.lane.offer([event(1)])
    second.lane.offer([event(0)])
    await settle()
    assert world.kafka.steps().count("begin") == 1
    world.kafka.gate.set()
    await settle()
    assert [sorted(one.offsets.values()) for one in world.kafka.transactions] == [[1], [1, 2]]


async def test_units_of_one_lane_are_committed_in_order_and_once_while_each_transaction_fails_once(world: World) -> None:
    rig = await world.one_lane(unit_max_records=2)
    world.kafka.fail["ack"].extend([KafkaTimeoutError(), None, None, None] * 20)
    for offset in range(0, 30, 3):
        rig.lane.offer(events(offset, offset + 3))
        await settle(5)
    await settle(400)
    assert (rig.count(), rig.durable, rig.fatal.reasons) == (30, 30, [])
    assert world.kafka.values(OUT) == [b"%d" % n for n in range(1, 31)]


# -- pace ---------------------------------------------------------------------------------------------


async def test_transactions_begin_an_interval_apart(make: Callable[..., World]) -> None:
    world = make(interval_s=0.04)
    rig = await world.one_lane()
    began: list[float] = []
    for offset in range(3):
        rig.lane.offer([event(offset)])
        while len(world.kafka.transactions) == offset:  # noqa: ASYNC110 - a fake changes it
            await asyncio.sleep(0.001)
        began.append(time.monotonic())
    assert all(later - earlier > 0.03 for earlier, later in itertools.pairwise(began))
    await shut(world)


async def test_a_closing_lane_does_not_wait_for_the_interval(make: Callable[..., World]) -> None:
    world = make(interval_s=30.0)
    rig = await world.one_lane(drain_timeout_s=2.0)
    rig.lane.offer([event(0)])
    await settle()
    assert len(world.kafka.transactions) == 1
    rig.lane.offer([event(1)])
    await settle()
    assert rig.lane.units_in_flight == 1
    await rig.lane.close()
    assert (rig.fatal.reasons, rig.count()) == ([], 2)
    await shut(world)


async def test_what_a_closing_lane_publishes_is_not_paced(make: Callable[..., World]) -> None:
    world = make(interval_s=30.0)
    await world.exactly_once.acquire([0, 4])
    closing, other = await world.lane(0), await world.lane(4)
    other.lane.closing = True
    for offset in range(3):
        closing.lane.offer([event(offset)])
        await settle()
    assert len(world.kafka.transactions) == 3
    await shut(world)


async def test_closing_lanes_drain(world: World) -> None:
    await world.exactly_once.acquire([0, 4])
    rigs = [await world.lane(partition, unit_max_records=1) for partition in (0, 4)]
    world.kafka.gate = asyncio.Event()
    for rig in rigs:
        rig.lane.offer(events(0, 3))
    await settle()
    closing = [asyncio.ensure_future(rig.lane.close()) for rig in rigs]
    await settle()
    assert not any(task.done() for task in closing)
    world.kafka.gate.set()
    await asyncio.gather(*closing)
    assert [(rig.count(), rig.lane.units_in_flight, rig.fatal.reasons) for rig in rigs] == [(3, 0, [])] * 2
    assert world.kafka.group == {TopicPartition(SOURCE, 0): 3, TopicPartition(SOURCE, 4): 3}
    assert world.exactly_once._groups[0].lanes == []


# -- failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
async def test_after_a_failed_step_a_new_producer_sends_the_same_units_again(world: World, step: str) -> None:
    rig = await world.one_lane()
    world.take()
    world.kafka.fail[step].append(KafkaTimeoutError())
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    steps = [name for name in world.take() if name not in ("send", "committed?")]
    failed, again = steps[: steps.index("member")], steps[steps.index("member") :]
    assert failed == ["begin", "offsets", "commit"][: {"offsets": 2, "commit": 3}.get(step, 1)]
    assert again == ["member", "stop", "new", "start", "member", "begin", "offsets", "commit"]
    assert (len(world.kafka.transactions), rig.count(), rig.durable) == (1, 1, 2)
    assert (world.kafka.values(OUT), world.kafka.values(DLQ)) == ([b"1"], [b"dead"])
    assert [ok for ok in world.observer.commits if ok] == [True]


async def test_every_send_may_fail_and_all_are_sent_again(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["ack"].extend([None, None, MessageSizeTooLargeError()])  # the changelog's
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    assert [tp.topic for tp, _, _ in world.kafka.transactions[0].sends] == [OUT, DLQ, CHANGELOG]
    assert rig.store.changelog_offset() == 1


async def test_a_commit_that_took_effect_is_not_repeated(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert len(world.kafka.transactions) == 1
    assert (rig.count(), rig.durable, rig.store.changelog_offset()) == (3, 3, 1)
    rig.lane.offer(events(3, 5))
    await settle(60)
    assert world.kafka.values(OUT) == [b"1", b"2", b"3", b"4", b"5"]
    assert rig.listener.units == [(1, -1, 2), (4, 1, 4)]


async def test_the_stamp_is_that_of_the_attempt_that_was_committed(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (len(world.kafka.transactions), rig.store.changelog_offset()) == (1, 4)


async def test_a_repair_in_the_transaction_whose_commit_is_unknown_is_done_too(world: World) -> None:
    await world.exactly_once.acquire([0, 4])
    rig = await world.lane(0, store=in_need_of_repair(world))
    await settle()
    world.take()
    other = await world.lane(4)
    world.kafka.fail["committed"].append(KafkaConnectionError())
    other.lane.offer([event(0)])
    await settle(60)
    assert (len(world.kafka.transactions), other.count(), rig.store.keys_to_repair()) == (2, 1, [])


@pytest.mark.parametrize("answers", [[False], [True, False]], ids=["before", "after the new producer's start"])
async def test_a_worker_that_is_no_member_sends_nothing_again(world: World, answers: list[bool]) -> None:
    rig = await world.one_lane()
    world.take()
    world.kafka.fail["ack"].append(ProducerFenced())
    world.kafka.members.extend([*answers, *[False] * 9])
    rig.lane.offer(events(0, 3))
    await settle(60)
    steps = world.take()
    assert steps.count("begin") == 1
    assert steps.count("start") == len(answers) - 1
    assert "belongs to another worker" in rig.fatal.reasons[0]
    assert (rig.store.changelog_offset(), world.kafka.transactions) == (-1, [])


async def test_not_ours_names_the_group_and_ends_every_lane_of_it(world: World) -> None:
    await world.exactly_once.acquire([3, 7])
    rigs = [await world.lane(3), await world.lane(7)]
    world.kafka.fail["begin"].append(ProducerFenced())
    world.kafka.members.extend([False] * 9)
    for rig in rigs:
        rig.lane.offer([event(0)])
    await settle(60)
    assert all(str(NotOurs(3)) in rig.fatal.reasons[0] for rig in rigs)


async def test_a_worker_whose_offsets_another_has_moved_sends_nothing_again(world: World) -> None:
    """The question for the membership is answered "yes" while a group coordinator loads: the offsets decide."""
    rig = await world.one_lane()
    source = TopicPartition(SOURCE, 0)
    world.kafka.fail["ack"].append(ProducerFenced())
    world.kafka.at_takeover = lambda transactional_id: world.kafka.transact(transactional_id, {source: 20})
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (world.kafka.transactions, world.kafka.group) == ([], {source: 20})
    assert "belongs to another worker" in rig.fatal.reasons[0]


@pytest.mark.parametrize("step", ["start", "offsets?", "stop"])
async def test_replacing_the_producer_may_fail_too_and_is_tried_again(world: World, step: str) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.fail[step].append(KafkaConnectionError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (rig.fatal.reasons, rig.count(), len(world.kafka.transactions)) == ([], 3, 1)


async def test_a_coordinator_that_cannot_be_asked_is_asked_again(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].append(ProducerFenced())
    world.kafka.members.append(GroupCoordinatorNotAvailableError())
    rig.lane.offer(events(0, 3))
    await settle(60)
    assert (rig.fatal.reasons, rig.count(), len(world.kafka.transactions)) == ([], 3, 1)


async def test_the_process_ends_when_nothing_helps_and_says_why(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["ack"].extend([MessageSizeTooLargeError()] * 99)
    rig.lane.offer(events(0, 3))
    await settle(200)
    assert world.kafka.steps().count("begin") == ATTEMPTS
    assert "MessageSizeTooLargeError" in rig.fatal.reasons[0]
    assert (rig.store.changelog_offset(), rig.durable, world.kafka.transactions) == (-1, -1, [])


async def test_the_last_attempt_counts(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["begin"].extend([ProducerFenced()] * (ATTEMPTS - 1))
    rig.lane.offer(events(0, 3))
    await settle(200)
    assert (rig.fatal.reasons, rig.count()) == ([], 3)


async def test_a_failure_in_one_group_leaves_the_others_alone(world: World) -> None:
    await world.exactly_once.acquire([0, 1])
    broken, sound = await world.lane(0), await world.lane(1)
    world.kafka.held = []
    broken.lane.offer([event(0)])
    await settle()
    stuck, world.kafka.held = world.kafka.held, None
    for offset in range(3):
        sound.lane.offer([event(offset)])
        await settle()
    assert (sound.count(), broken.lane.units_in_flight) == (3, 1)
    for acknowledge in stuck:
        acknowledge()
    await settle()
    assert broken.count() == 1


async def test_no_failed_send_is_left_unread(world: World) -> None:
    """asyncio would log each as an error whenever the collector finds it."""
    unread: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unread.append(context))
    rig = await world.one_lane()
    world.kafka.fail["send"].extend([None, None, KafkaTimeoutError()])
    world.kafka.fail["ack"].extend([ProducerFenced(), ProducerFenced()])
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle(60)
    gc.collect()
    assert (unread, rig.count()) == ([], 1)


# -- repairs ------------------------------------------------------------------------------------------


def in_need_of_repair(world: World) -> PartitionStore:
    """A store in which a zombie's key waits to be written again."""
    store = open_store(world.path / "repair")
    world.stores.append(store)
    store.apply({COUNTS.raw_key("u"): b"7", REPAIR_KEY: encode_keys([COUNTS.raw_key("u")])}, 3)
    return store


async def test_a_mere_repair_moves_no_offsets(world: World) -> None:
    await world.exactly_once.acquire([0])
    rig = await world.lane(store=in_need_of_repair(world))
    await settle()
    assert "offsets" not in world.kafka.steps()
    (one,) = world.kafka.transactions
    assert (one.offsets, [tp.topic for tp, _, _ in one.sends]) == ({}, [CHANGELOG])
    assert (rig.store.keys_to_repair(), world.kafka.values(CHANGELOG)[0], rig.fatal.reasons) == ([], b"7", [])


async def test_a_repair_whose_commit_is_unknown_is_repeated(world: World) -> None:
    await world.exactly_once.acquire([0])
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig = await world.lane(store=in_need_of_repair(world))
    await settle(60)
    assert len(world.kafka.transactions) == 2  # the same values twice change nothing
    assert (rig.store.keys_to_repair(), rig.count()) == ([], 7)


# -- taking over and giving up ------------------------------------------------------------------------


async def test_acquire_starts_exactly_the_groups_of_the_partitions(world: World) -> None:
    await world.exactly_once.acquire([1, 5, 9, 3])
    assert sorted(world.kafka.calls) == [("new", "app-1"), ("new", "app-3"), ("start", "app-1"), ("start", "app-3")]


async def test_acquire_stops_what_was_held_before_it_starts(world: World) -> None:
    await world.exactly_once.acquire([0, 1])
    world.kafka.calls.clear()
    await world.exactly_once.acquire([1])
    assert world.kafka.calls[:2] == [("stop", "app-0"), ("stop", "app-1")]
    assert world.kafka.calls[2:] == [("new", "app-1"), ("start", "app-1")]


async def test_release_stops_every_producer_once(world: World) -> None:
    await world.exactly_once.acquire(range(8))
    world.kafka.calls.clear()
    await world.exactly_once.release()
    await world.exactly_once.release()
    assert sorted(world.kafka.calls) == [("stop", f"app-{group}") for group in range(4)]


async def test_no_partition_starts_no_producer(world: World) -> None:
    await world.exactly_once.acquire([])
    assert world.kafka.calls == []


async def test_an_id_that_cannot_be_taken_over_is_an_error(world: World) -> None:
    world.kafka.fail["start"].append(KafkaConnectionError())
    with pytest.raises(KafkaConnectionError):
        await world.exactly_once.acquire([0])


async def test_a_lane_of_a_group_that_is_not_held_cannot_settle(world: World) -> None:
    await world.exactly_once.acquire([0])
    rig = await world.lane(1)
    assert "cannot go on: KeyError" in rig.fatal.reasons[0]


async def test_a_successor_goes_on_where_the_predecessor_committed(world: World, make: Callable[..., World]) -> None:
    first = await world.one_lane()
    first.lane.offer(events(0, 3))
    await settle()
    world.kafka.held = []
    first.lane.offer(events(3, 5))
    await settle()
    world.kafka.held = None
    await world.exactly_once.acquire([0])  # what a successor does: the same id
    assert world.kafka.group == {TopicPartition(SOURCE, 0): 3}
    assert world.kafka.opened == {}

"""Transactions on a real Kafka: zombies, kills at every phase, refused records, time-outs, foreign transactions.

Most tests run lanes with real producers and a counting agent (``tests.engine.support``) in this process, so that a
worker can be held at an exact step; whole workers are started where recovery and the consumer group matter.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Position
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType  # type: ignore[attr-defined]

from app.engine.api import LaneId
from app.engine.marker import MARKER_KEY
from app.engine.store import PartitionStore
from app.engine.transactions import ExactlyOnce, TransactionalProducer, TransactionParts
from app.kafka_clients import client_options, transactional_producer
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, Topic, changelog_of
from deploy.local.kafka import LocalKafka
from deploy.local.worker_process import ROOT, WorkerProcess
from tests.engine.support import CHANGELOG, DLQ, OUT, SOURCE, FakeObserver, Rig, dead_letter, event, events, new_rig, open_store
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.topic_admin import recreate

GROUPS = 5
#: Aborts what timed out soon; the broker's default is 10 s.
QUICK_ABORT = {"transaction.abort.timed.out.transaction.cleanup.interval.ms": "200"}
#: max.message.bytes below the size of a batch with a long key, and above that of a transaction marker (78): a topic that
#: refuses markers keeps the transaction from ending until the broker restarts.
SMALL = 100
LONG_KEY = "k" * 100
WAIT_S = 30.0


@pytest.fixture
def aborting_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker for this test alone that aborts timed-out transactions at once."""
    with LocalKafka(tmp_path / "kafka", config=QUICK_ABORT) as broker:
        yield broker


# -- lanes over real producers ------------------------------------------------------------------------


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
            committed=self.committed,
            dead_letter=dead_letter,
            observer=self.observer,
        )
        self.exactly_once = ExactlyOnce(parts)

    async def _is_member(self) -> bool:
        return self.member

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


@pytest.fixture
async def new_worker(tmp_path: Path) -> AsyncIterator[MakeWorker]:
    """Make workers; all are closed when the test ends."""
    made: list[Worker] = []

    async def make(settings: Settings) -> Worker:
        options = client_options(settings)
        consumer = AIOKafkaConsumer(**options, group_id=settings.app_id, enable_auto_commit=False, isolation_level="read_committed")
        await consumer.start()
        made.append(Worker(settings, tmp_path / f"lanes-{len(made)}", Tap(settings), consumer))
        return made[-1]

    yield make
    for worker in made:
        await worker.close()


@pytest.fixture
def bare(topics: MakeTopics) -> Callable[..., Settings]:
    """Settings of a deployment of the counting agent, with its topics made anew."""

    def make(**overrides: Any) -> Settings:
        settings = topics(create=False, redis_url="", processing_guarantee="exactly_once", **overrides)
        keep = {"retention.ms": "-1"}  # the events are of 2023
        recreate(settings.kafka_bootstrap, [Topic(name, settings.partitions, "", keep) for name in (SOURCE, OUT, DLQ, CHANGELOG)])
        return settings

    return make


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


# -- fencing ------------------------------------------------------------------------------------------

PHASES = ("begin", "send1", "send2", "offsets", "commit")


@pytest.mark.parametrize("thinks_it_is_a_member", [False, True], ids=["asks", "is told yes"])
async def test_a_worker_that_stood_still_can_do_nothing_after_its_successor_started(
    bare: Callable[..., Settings], new_worker: MakeWorker, thinks_it_is_a_member: bool
) -> None:
    """At each step of its transaction; one group stands still after the other."""
    settings = bare(partitions=len(PHASES))
    zombie, successor = await new_worker(settings), await new_worker(settings)
    await zombie.open(*range(len(PHASES)))
    zombie.member = thinks_it_is_a_member
    await feed(zombie.rigs.values(), 0, 5)
    for group, phase in enumerate(PHASES):
        old = zombie.rigs[group]
        zombie.tap.hold_next(phase)
        old.lane.offer(events(5, 8))
        await zombie.tap.reached.wait()
        await successor.open(group)
        new = successor.rigs[group]
        assert new.durable == 5, phase
        await feed([new], 5, 20)
        zombie.tap.resume.set()
        await until(lambda old=old: bool(old.fatal.reasons))  # type: ignore[misc]
        await feed([new], 20, 25)

        assert "belongs to another worker" in old.fatal.reasons[0], phase
        assert (old.count(), new.count(), new.fatal.reasons) == (5, 25, []), phase
        assert await group_offset(successor, group, 25) == 25, phase
    await assert_outputs(settings, dict.fromkeys(range(len(PHASES)), counts(25)))
    assert successor.tap.calls["start"] <= 2 * len(PHASES), "the two fence each other"


async def feed(rigs: Iterable[Rig], start: int, stop: int) -> None:
    """Offer events and wait until they are durable, or their worker ends."""
    rigs = list(rigs)
    for rig in rigs:
        rig.lane.offer(events(start, stop))
    await durable(rigs, stop)


async def durable(rigs: Iterable[Rig], stop: int) -> None:
    """Wait until all are durable up to ``stop``, or their worker ends."""
    await until(lambda: all(rig.durable == stop or rig.fatal.reasons for rig in rigs))


async def test_every_call_of_a_fenced_producer_fails(bare: Callable[..., Settings]) -> None:
    settings = bare()

    async def fails(call: Coroutine[Any, Any, Any]) -> None:
        with pytest.raises((KafkaError, IllegalOperation, AssertionError)):  # the last two after the first error
            await call

    for first in ("send", "offsets", "commit"):
        async with producer(settings, "app-fence") as old:
            await old.begin_transaction()
            await (await old.send(OUT, b"old", partition=0))
            async with producer(settings, "app-fence"):
                calls: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
                    "send": lambda old=old: old.send_and_wait(OUT, b"old", partition=0),  # type: ignore[misc]
                    "offsets": lambda old=old: old.send_offsets_to_transaction({TopicPartition(SOURCE, 0): 1}, "app"),  # type: ignore[misc]
                    "commit": lambda old=old: old.commit_transaction(),  # type: ignore[misc]
                }
                for name in (first, *(name for name in calls if name != first)):
                    await fails(calls[name]())
    await assert_outputs(settings, {})


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


async def test_two_owners_of_an_id_do_not_fence_each_other_for_ever(bare: Callable[..., Settings], new_worker: MakeWorker) -> None:
    settings = bare()
    old, new = await new_worker(settings), await new_worker(settings)
    await old.open(0)
    old.rigs[0].lane.offer(events(0, 5))
    await until(lambda: old.rigs[0].durable == 5)
    await new.open(0)
    old.member = False
    for first in range(5, 100, 5):  # both are fed, as long as they live
        for worker in (old, new):
            worker.rigs[0].lane.offer(events(first, first + 5))
            await asyncio.sleep(0.01)
    await until(lambda: new.rigs[0].durable == 100 or bool(new.rigs[0].fatal.reasons))
    assert (new.rigs[0].fatal.reasons, len(old.rigs[0].fatal.reasons) > 0) == ([], True)
    assert (old.tap.calls["start"], new.tap.calls["start"]) == (1, 1)
    await assert_outputs(settings, {0: counts(100)})


# -- kill -9 at each phase ----------------------------------------------------------------------------

KILLED = """
import asyncio, os, sys
from aiokafka import TopicPartition
from app.kafka_clients import transactional_producer
from app.settings import load_settings

async def main(phase, group):
    settings = load_settings()
    producer = transactional_producer(settings, f"{settings.app_id}-{group}")
    await producer.start()
    await producer.begin_transaction()
    if phase != "begun":
        for n in range(3):
            await producer.send_and_wait("out", b"%d" % (n + 1), partition=group)
    if phase in ("offsets", "committing", "committed"):
        await producer.send_offsets_to_transaction({TopicPartition("source", group): 3}, settings.app_id)
    if phase == "committing":
        task = asyncio.ensure_future(producer.commit_transaction())
        for _ in range(8):  # EndTxn is on its way, and its answer not here
            await asyncio.sleep(0)
        assert not task.done()
    if phase == "committed":
        await producer.commit_transaction()
    os.kill(os.getpid(), 9)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""
KILLED_AT = ("begun", "sent", "offsets", "committing", "committed")


async def test_after_kill_9_at_any_phase_a_successor_starts_within_a_second_and_blocks_no_reader(
    bare: Callable[..., Settings], new_worker: MakeWorker
) -> None:
    settings = bare(partitions=len(KILLED_AT))
    env = {"VELTRIX_KAFKA_BOOTSTRAP": settings.kafka_bootstrap, "VELTRIX_APP_ID": settings.app_id, "PYTHONPATH": str(ROOT)}
    children = [
        subprocess.Popen([sys.executable, "-c", KILLED, phase, str(group)], env=env, cwd=ROOT)  # noqa: ASYNC220 - returns at once
        for group, phase in enumerate(KILLED_AT)
    ]
    assert [await asyncio.to_thread(child.wait, 60) for child in children] == [-signal.SIGKILL] * len(KILLED_AT)
    foreign = AIOKafkaProducer(**client_options(settings))
    await foreign.start()
    for partition in range(len(KILLED_AT)):  # behind whatever is open
        await foreign.send_and_wait(OUT, b"behind", partition=partition)
    await foreign.stop()

    for group in range(len(KILLED_AT)):
        began = time.monotonic()
        async with producer(settings, f"{settings.app_id}-{group}"):
            assert time.monotonic() - began < 1.0, KILLED_AT[group]

    began = time.monotonic()
    seen = await outputs(settings)
    assert time.monotonic() - began < 5.0, "nothing waits for the transaction timeout"
    worker = await new_worker(settings)
    for group, phase in enumerate(KILLED_AT):
        source = TopicPartition(SOURCE, group)
        offset = (await worker.committed([source]))[source]
        done = {"begun": [-1], "sent": [-1], "offsets": [-1], "committing": [-1, 3], "committed": [3]}[phase]
        assert offset in done, phase
        assert seen[group] == [*(counts(3) if offset == 3 else []), b"behind"], phase


# -- what the broker refuses --------------------------------------------------------------------------


async def test_a_batch_that_is_refused_commits_nothing_and_the_same_worker_goes_on_once_it_is_taken(
    bare: Callable[..., Settings], new_worker: MakeWorker
) -> None:
    settings = bare()
    worker = await new_worker(settings)
    await worker.open(0)
    rig = worker.rigs[0]
    await feed([rig], 0, 5)
    for number, topic in enumerate((DLQ, OUT, CHANGELOG)):
        start, attempts = 5 + 5 * number, worker.tap.calls["begin"]
        set_max_message_bytes(settings, topic, SMALL)
        rig.lane.offer([event(start, LONG_KEY, b"dead"), *events(start + 1, start + 5)])
        await until(lambda attempts=attempts: worker.tap.calls["begin"] >= attempts + 3)  # type: ignore[misc]
        assert (rig.count(), rig.durable) == (5 + 4 * number, start), topic
        assert await group_offset(worker, 0, start) == start, topic
        await assert_outputs(settings, {0: counts(5 + 4 * number)})
        await assert_outputs(settings, {0: [b"dead"] * number} if number else {}, DLQ)
        set_max_message_bytes(settings, topic, 1_000_000)
        await until(lambda start=start: rig.durable == start + 5 or bool(rig.fatal.reasons))  # type: ignore[misc]
        assert rig.fatal.reasons == [], topic
    await assert_outputs(settings, {0: counts(17)})
    await assert_outputs(settings, {0: [b"dead"] * 3}, DLQ)


async def test_a_group_that_cannot_commit_leaves_the_others_alone(bare: Callable[..., Settings], new_worker: MakeWorker) -> None:
    settings = bare()
    worker = await new_worker(settings)
    await worker.open(0, 1)
    set_max_message_bytes(settings, DLQ, SMALL)
    worker.rigs[0].lane.offer([event(0, LONG_KEY, b"dead")])
    for first in range(0, 50, 5):
        worker.rigs[1].lane.offer(events(first, first + 5))
        await until(lambda first=first: worker.rigs[1].durable == first + 5, timeout_s=2.0)  # type: ignore[misc]
    assert worker.rigs[0].durable == -1
    set_max_message_bytes(settings, DLQ, 1_000_000)
    await until(lambda: worker.rigs[0].durable == 1)


def set_max_message_bytes(settings: Settings, topic: str, size: int) -> None:
    """Change a topic while it is written to; returns once the broker acts on it."""
    entry = ConfigEntry("max.message.bytes", str(size), incremental_operation=AlterConfigOpType.SET)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    for done in admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]).values():
        done.result()
    time.sleep(0.1)  # the answer comes from the controller, a little before the broker has heard of it


# -- the broker's verification ------------------------------------------------------------------------


async def test_1_000_transactions_meet_no_refused_verification(
    bare: Callable[..., Settings], new_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Offsets sent while a produce request is under way make the broker refuse one of both, as NOT_ENOUGH_REPLICAS."""
    settings = bare()
    worker = await new_worker(settings)
    await worker.open(*range(settings.partitions))
    done = 0
    while worker.tap.calls["commit"] < 1_000:
        done += 2
        for rig in worker.rigs.values():
            rig.lane.offer([event(done - 2), event(done - 1, value=b"dead")])
        await durable(worker.rigs.values(), done)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("aiokafka")]
    assert [warning for warning in warnings if "replica" in warning.lower() or "error" in warning.lower()] == []
    assert worker.tap.calls["begin"] == worker.tap.calls["commit"]
    await assert_outputs(settings, dict.fromkeys(range(settings.partitions), counts(done // 2)))


# -- longer than the transaction timeout --------------------------------------------------------------


async def test_a_worker_that_was_slower_than_the_transaction_timeout_goes_on(
    aborting_kafka: LocalKafka, bare: Callable[..., Settings], new_worker: MakeWorker
) -> None:
    """Fenced by the broker's clock, and still the owner."""
    settings = bare(kafka_bootstrap=aborting_kafka.bootstrap, transaction_timeout_ms=1_000)
    workers = [await new_worker(settings) for _ in PHASES[2:]]
    for group, (worker, phase) in enumerate(zip(workers, PHASES[2:], strict=True)):
        await worker.open(group)
        worker.tap.hold_next(phase)
        worker.rigs[group].lane.offer(events(0, 5))
        await worker.tap.reached.wait()
    await asyncio.sleep(2.0)
    for worker in workers:
        worker.tap.resume.set()
    for group, worker in enumerate(workers):
        rig = worker.rigs[group]
        await until(lambda rig=rig: rig.durable == 5 or bool(rig.fatal.reasons))  # type: ignore[misc]
        assert (rig.fatal.reasons, rig.count(), worker.tap.calls["start"]) == ([], 5, 2), PHASES[2 + group]
    await assert_outputs(settings, dict.fromkeys(range(3), counts(5)))


@pytest.mark.parametrize("fault", ["paused", "killed"])
def test_a_broker_away_for_longer_than_the_transaction_timeout_ends_no_worker(
    aborting_kafka: LocalKafka, topics: MakeTopics, worker: StartWorker, fault: str
) -> None:
    settings = topics(
        kafka_bootstrap=aborting_kafka.bootstrap, redis_url="", processing_guarantee="exactly_once", transaction_timeout_ms=2_000
    )
    sent, away = truth.Sent(), 3.5
    one = worker(settings)
    events_ = truth.clicks(6_000, "away")
    sender = threading.Thread(target=truth.send, args=(settings, events_, sent), kwargs={"rate": 1_000})
    sender.start()
    time.sleep(1.5)
    if fault == "paused":
        aborting_kafka.pause()
        time.sleep(away)
        aborting_kafka.resume()
    else:
        aborting_kafka.kill()
        time.sleep(away)
        aborting_kafka.start()
    sender.join()
    truth.wait_consumed([one], len(events_))
    assert one.is_running()
    assert truth.assert_exact(settings, sent).repeated == 0
    assert truth.ledger(one)["residue"] == 0


# -- aborted and open transactions of others ----------------------------------------------------------


async def test_aborted_and_open_transactions_in_source_and_changelog_stop_nothing_and_lose_nothing(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(processing_guarantee="exactly_once", partitions=2), truth.Sent()
    changelog, patient = (
        changelog_of(settings.app_id, "process_interactions"),
        settings.model_copy(update={"transaction_timeout_ms": 300_000}),
    )
    batches = [truth.clicks(1_000, tag) for tag in ("first", "second", "third")]
    first = await asyncio.to_thread(worker, settings, run_dir=tmp_path / "one")
    await asyncio.to_thread(truth.send, settings, batches[0], sent)
    await asyncio.to_thread(truth.wait_consumed, [first], 1_000)
    assert await asyncio.to_thread(first.terminate) == 0

    async with producer(patient, "foreign-aborted") as foreign:  # an aborted tail, of source and changelog
        await foreign.begin_transaction()
        for topic in (changelog, INTERACTIONS):
            for partition in range(settings.partitions):
                await foreign.send_and_wait(topic, b"junk", key=MARKER_KEY, partition=partition)
        await foreign.abort_transaction()
    async with producer(patient, "foreign-open") as foreign:  # and an open one behind it
        await foreign.begin_transaction()
        for partition in range(settings.partitions):
            await foreign.send_and_wait(changelog, b"junk", key=MARKER_KEY, partition=partition)
        second = await asyncio.to_thread(worker, settings, run_dir=tmp_path / "empty")
        await asyncio.to_thread(truth.send, settings, batches[1], sent)
        await asyncio.to_thread(truth.wait_consumed, [second], 2_000)
        await asyncio.to_thread(second.kill9)
        await foreign.abort_transaction()
        await foreign.begin_transaction()  # now in the source: what is behind it waits
        for partition in range(settings.partitions):
            await foreign.send_and_wait(INTERACTIONS, b"junk", key=b"k", partition=partition)
        await asyncio.to_thread(truth.send, settings, batches[2], sent)
        third = await asyncio.to_thread(worker, settings, run_dir=tmp_path / "empty-2")
        await asyncio.sleep(1.0)
        assert truth.ledger(third)["consumed"] == 2_000
        await foreign.abort_transaction()
    await asyncio.to_thread(truth.wait_consumed, [third], 3_000)
    assert truth.ledger(third)["residue"] == 0
    assert (await asyncio.to_thread(truth.assert_exact, settings, sent)).repeated == 0
    assert await asyncio.to_thread(third.terminate) == 0
    ends, offsets = await asyncio.to_thread(source_positions, settings)
    assert sum(ends.values()) == 3_000 + 4 * settings.partitions  # two aborted records and two markers each
    assert all(0 <= ends[partition] - offsets[partition] <= 2 for partition in ends)  # a tail of markers is nobody's


def source_positions(settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    """End of the log and the group's offset, by partition."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id})
    positions = [Position(INTERACTIONS, partition) for partition in range(settings.partitions)]
    ends = {p.partition: consumer.get_watermark_offsets(p, timeout=10)[1] for p in positions}
    offsets = {p.partition: p.offset for p in consumer.committed(positions, timeout=10)}
    consumer.close()
    return ends, offsets


# -- the group's offsets ------------------------------------------------------------------------------


def test_the_groups_offsets_never_go_back_through_kills_and_rebalances(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings = topics(processing_guarantee="exactly_once", kafka_session_timeout_ms=6_000, redis_url="")
    sent, events_ = truth.Sent(), truth.clicks(14_000, "back")
    workers: list[WorkerProcess] = [worker(settings, run_dir=tmp_path / name) for name in ("one", "two")]
    with watched(settings) as seen:
        sender = threading.Thread(target=truth.send, args=(settings, events_, sent), kwargs={"rate": 1_000})
        sender.start()
        time.sleep(3.0)
        workers[0].kill9()
        time.sleep(1.0)
        workers[0] = worker(settings, run_dir=tmp_path / "one", ready=False)
        time.sleep(6.0)
        assert workers[1].terminate() == 0
        sender.join()
        workers[0].wait_ready()
        truth.wait_consumed([workers[0]], len(events_))
    for partition, offsets in seen.items():
        assert offsets == sorted(offsets), f"partition {partition}"
        assert len(set(offsets)) > 3, "polled often enough to see it move"
    assert truth.assert_exact(settings, sent).repeated == 0
    assert len({message.value() for message in truth.read(settings, ENRICHED)}) == len(sent.valid)


@contextmanager
def watched(settings: Settings) -> Iterator[dict[int, list[int]]]:
    """Poll the group's offset of every source partition all the time."""
    seen: dict[int, list[int]] = {partition: [] for partition in range(settings.partitions)}
    over = threading.Event()

    def poll() -> None:
        consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id})
        positions = [Position(INTERACTIONS, partition) for partition in seen]
        while not over.is_set():
            for position in consumer.committed(positions, timeout=10):
                seen[position.partition].append(position.offset)
            time.sleep(0.01)
        consumer.close()

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()

"""Transactions on a real Kafka: zombies, kills at every phase, refused records, time-outs.

All but the last run lanes with real producers and a counting agent (``tests.engine.support``) in this process, so that
a worker can be held at an exact step.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from logging import WARNING
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import IllegalOperation, KafkaError

from app.engine import transactions
from app.kafka_clients import client_options
from app.settings import Settings
from app.topics import Topic
from deploy.local.kafka import LocalKafka
from deploy.local.worker_process import ROOT
from tests.engine.support import CHANGELOG, DLQ, OUT, SOURCE, Rig, event, events
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.topic_admin import recreate
from tests.integration.transactions_support import (
    QUICK_ABORT,
    MakeWorker,
    assert_outputs,
    counts,
    durable,
    feed,
    group_offset,
    outputs,
    producer,
    set_max_message_bytes,
    until,
    workers_in,
)

#: max.message.bytes below the size of a batch with a long key, and above that of a transaction marker (78): a topic that
#: refuses markers keeps the transaction from ending until the broker restarts.
SMALL = 100
LONG_KEY = "k" * 100


@pytest.fixture(scope="module")
def aborting_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker for these tests alone that aborts timed-out transactions at once."""
    with LocalKafka(tmp_path_factory.mktemp("aborting-kafka"), config=QUICK_ABORT) as broker:
        yield broker


@pytest.fixture
async def new_worker(tmp_path: Path) -> AsyncIterator[MakeWorker]:
    """Make workers; all are closed when the test ends."""
    async with workers_in(tmp_path) as make:
        yield make


@pytest.fixture
def bare(topics: MakeTopics) -> Callable[..., Settings]:
    """Settings of a deployment of the counting agent, with its topics made anew."""

    def make(**overrides: Any) -> Settings:
        settings = topics(create=False, redis_url="", processing_guarantee="exactly_once", **overrides)
        keep = {"retention.ms": "-1"}  # the events are of 2023
        recreate(settings.kafka_bootstrap, [Topic(name, settings.partitions, "", keep) for name in (SOURCE, OUT, DLQ, CHANGELOG)])
        return settings

    return make


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
    bare: Callable[..., Settings], new_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "LONGEST_BACK_OFF_S", 0.8)
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


# -- the broker's verification ------------------------------------------------------------------------


async def test_no_verification_is_refused_in_hundreds_of_transactions(
    bare: Callable[..., Settings], new_worker: MakeWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """Offsets sent while a produce request is under way make the broker refuse one of both, as NOT_ENOUGH_REPLICAS."""
    settings, each = bare(), 100
    worker = await new_worker(settings)
    await worker.open(*range(settings.partitions))

    async def one_after_the_other(rig: Rig) -> None:
        for start in range(0, 2 * each, 2):
            rig.lane.offer([event(start), event(start + 1, value=b"dead")])
            await durable([rig], start + 2)

    await asyncio.gather(*map(one_after_the_other, worker.rigs.values()))
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("aiokafka.producer") and record.levelno >= WARNING
    ]
    assert told == []
    assert worker.tap.calls["begin"] == worker.tap.calls["commit"] == each * settings.partitions
    await assert_outputs(settings, dict.fromkeys(range(settings.partitions), counts(each)))


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


def test_a_broker_that_stood_still_for_longer_than_the_transaction_timeout_ends_no_worker(
    aborting_kafka: LocalKafka, topics: MakeTopics, worker: StartWorker
) -> None:
    """When the broker wakes up, it aborts what timed out or takes the commit, whichever comes first."""
    settings = topics(
        kafka_bootstrap=aborting_kafka.bootstrap, redis_url="", processing_guarantee="exactly_once", transaction_timeout_ms=1_000
    )
    sent, events = truth.Sent(), truth.clicks(5_000, "away")
    one = worker(settings)
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 1_000})
    sender.start()
    for _ in range(2):
        time.sleep(1.0)
        aborting_kafka.pause()
        time.sleep(1.5)
        aborting_kafka.resume()
    sender.join()
    truth.wait_consumed([one], len(events))
    assert one.is_running()
    assert truth.assert_exact(settings, sent).repeated == 0
    assert truth.ledger(one)["residue"] == 0

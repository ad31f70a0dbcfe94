"""Whole workers under exactly once: other clients' transactions, kills, rebalances."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Position

from app.engine.marker import MARKER_KEY
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, changelog_of
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.transactions_support import producer

# -- aborted and open transactions of others ----------------------------------------------------------


async def test_aborted_and_open_transactions_in_source_and_changelog_stop_nothing_and_lose_nothing(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(processing_guarantee="exactly_once", partitions=2), truth.Sent()
    changelog = changelog_of(settings.app_id, "process_interactions")
    # After the default of 10 s the broker would abort what shall stay open, on a busy machine before the test is over.
    patient = settings.model_copy(update={"transaction_timeout_ms": 300_000})
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
        assert await asyncio.to_thread(second.terminate) == 0
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
    sent, events_ = truth.Sent(), truth.clicks(10_000, "back")
    workers: list[WorkerProcess] = [worker(settings, run_dir=tmp_path / name) for name in ("one", "two")]
    with watched(settings) as seen:
        sender = threading.Thread(target=truth.send, args=(settings, events_, sent), kwargs={"rate": 1_000})
        sender.start()
        time.sleep(2.0)
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
        assert len(set(offsets)) > 1, "polled often enough to see it move; a catch-up may be one commit"
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

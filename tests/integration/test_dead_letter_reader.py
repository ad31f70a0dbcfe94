"""Reading dead letters from a real Kafka: what capture wrote, listed newest first and found again by id."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence

import pytest
from aiokafka import AIOKafkaProducer

from app.dead_letters.api import DeadLettersUnavailable, Filters, InvalidQuery, UnknownQueue
from app.dead_letters.reader import DeadLetterReader
from app.dead_letters.record import DeadLetterRecordEncoder
from app.engine.api import Failure
from app.settings import Settings, load_settings
from app.topics import INTERACTIONS, dead_letters_of
from deploy.local.ports import free_ports
from tests.dead_letters.records import FakeRecord
from tests.integration.conftest import MakeTopics

HOUR_MS = 3_600_000


@pytest.fixture
def settings(topics: MakeTopics) -> Settings:
    return topics(partitions=3, redis_url="")


@pytest.fixture
async def reader(settings: Settings) -> AsyncIterator[DeadLetterReader]:
    reader = DeadLetterReader(settings)
    yield reader
    await reader.aclose()


def queue_of(settings: Settings) -> str:
    return dead_letters_of(settings.app_id, INTERACTIONS)


async def park(settings: Settings, letters: Sequence[tuple[FakeRecord, Failure, int]]) -> None:
    """Write dead letters as the engine does: same partition, timestamp of the failure."""
    encode = DeadLetterRecordEncoder(settings)
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap, max_request_size=2 * 1024 * 1024)
    await producer.start()
    try:
        for record, failure, failed_at_ms in letters:
            letter = encode(record, failure, failed_at_ms)
            batch = producer.create_batch()  # as the engine does; ``send`` refuses a null key with a null value
            batch.append(key=letter.key, value=letter.value, timestamp=failed_at_ms, headers=list(letter.headers))
            await producer.send_batch(batch, letter.topic, partition=record.partition)
        await producer.flush()
    finally:
        await producer.stop()


async def park_many(settings: Settings, count: int, newest_ms: int) -> None:
    """One a second, over all partitions; every tenth is worse."""
    reasons = [Failure("validate", "bad") if number % 10 else Failure("decode", "worse") for number in range(count)]
    start = newest_ms - 1000 * (count - 1)
    await park(settings, [(FakeRecord(partition=n % 3, offset=n), reason, start + 1000 * n) for n, reason in enumerate(reasons)])


async def test_an_empty_queue_has_no_ages(settings: Settings, reader: DeadLetterReader) -> None:
    (queue,) = await reader.queues()

    assert (queue.name, queue.partitions, queue.count) == (queue_of(settings), 3, 0)
    assert (queue.oldest_failed_at_ms, queue.newest_failed_at_ms, queue.oldest_expires_at_ms) == (None, None, None)
    assert (await reader.records(queue.name)).records == ()


async def test_a_queue_says_how_many_how_old_and_how_long(settings: Settings, reader: DeadLetterReader) -> None:
    now = time.time_ns() // 1_000_000
    await park_many(settings, 20, now)
    (queue,) = await reader.queues()

    assert (queue.count, queue.newest_failed_at_ms, queue.oldest_failed_at_ms) == (20, now, now - 19_000)
    assert queue.oldest_expires_at_ms == now - 19_000 + settings.dlq_retention_ms

    await park(settings, [(FakeRecord(partition=1, offset=99), Failure("decode", "x"), now + 5)])
    (queue,) = await reader.queues()

    assert (queue.count, queue.newest_failed_at_ms) == (21, now + 5)


async def test_binary_repeated_and_null_headers_and_null_values_come_back_as_they_were(
    settings: Settings, reader: DeadLetterReader
) -> None:
    headers = [("x", b"\x00\xff"), ("x", None), ("é", b""), ("x", b"2")]
    records = [
        FakeRecord(partition=0, offset=1, key=None, value=None, headers=headers),
        FakeRecord(partition=0, offset=2, key=b"\xff\x00", value=b"\x00" * 900_000),
        FakeRecord(partition=0, offset=3, key=b"", value=b""),
    ]
    now = time.time_ns() // 1_000_000
    await park(settings, [(record, Failure("decode", "not_utf8"), now + n) for n, record in enumerate(records)])
    page = await reader.records(queue_of(settings))

    assert [(r.source_offset, r.key, r.value) for r in page.records] == [
        (3, b"", b""),
        (2, b"\xff\x00", b"\x00" * 900_000),
        (1, None, None),
    ]
    assert list(page.records[2].headers[:4]) == headers
    assert page.next_cursor is None


async def test_pages_walk_from_the_newest_to_the_oldest_without_gap(settings: Settings, reader: DeadLetterReader) -> None:
    now = time.time_ns() // 1_000_000
    await park_many(settings, 200, now)
    queue, cursor, seen = queue_of(settings), None, []
    while True:
        page = await reader.records(queue, 30, cursor)
        seen += [record.source_offset for record in page.records]
        if page.next_cursor is None:
            break
        cursor = page.next_cursor
        await park(settings, [(FakeRecord(partition=2, offset=10_000), Failure("decode", "later"), now + 1)])

    assert seen == list(range(199, -1, -1))


async def test_filters_select_by_what_failed_and_when(settings: Settings, reader: DeadLetterReader) -> None:
    now = time.time_ns() // 1_000_000 - HOUR_MS
    await park_many(settings, 100, now)
    queue = queue_of(settings)
    worse = await reader.records(queue, 50, filters=Filters(reason="worse"))
    window = await reader.records(queue, 50, filters=Filters(failed_after_ms=now - 20_000, failed_before_ms=now - 10_000))
    neither = await reader.records(queue, 50, filters=Filters(failed_after_ms=now + 1))

    assert [r.source_offset for r in worse.records] == list(range(90, -1, -10))
    assert [r.source_offset for r in window.records] == list(range(88, 78, -1))
    assert window.scanned == 10
    assert (neither.records, neither.next_cursor, neither.scanned) == ((), None, 0)


async def test_a_record_is_found_by_its_id(settings: Settings, reader: DeadLetterReader) -> None:
    await park_many(settings, 9, time.time_ns() // 1_000_000)
    queue = queue_of(settings)
    found = await reader.record(f"{queue}:1:2")

    assert found is not None
    assert (found.id, found.source_partition, found.source_offset, found.reason) == (f"{queue}:1:2", 1, 7, "bad")
    assert await reader.record(f"{queue}:1:3") is None
    assert await reader.record(f"{queue}:77:0") is None


async def test_nothing_but_this_applications_queues_can_be_read(settings: Settings, reader: DeadLetterReader) -> None:
    with pytest.raises(UnknownQueue):
        await reader.records(INTERACTIONS)
    with pytest.raises(UnknownQueue):
        await reader.record(f"{INTERACTIONS}:0:0")
    with pytest.raises(InvalidQuery):
        await reader.record("nonsense")
    with pytest.raises(InvalidQuery):
        await reader.records(queue_of(settings), 501)
    with pytest.raises(InvalidQuery):
        await reader.records(queue_of(settings), 5, "nonsense")


async def test_a_missing_queue_is_named_with_what_to_do(topics: MakeTopics) -> None:
    settings = topics(create=False, redis_url="")
    reader = DeadLetterReader(settings)
    with pytest.raises(DeadLettersUnavailable, match=f"{queue_of(settings)} does not exist: run `veltrix topics apply`"):
        await reader.queues()
    await reader.aclose()


async def test_an_absent_kafka_is_an_answer_within_the_time_limit() -> None:
    (port,) = free_ports(1)
    reader = DeadLetterReader(load_settings(kafka_bootstrap=f"127.0.0.1:{port}"), timeout_s=3)
    with pytest.raises(DeadLettersUnavailable):
        await reader.queues()
    await reader.aclose()

"""Reading records from Kafka for tools: without a consumer group, nothing is committed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import aiokafka
from aiokafka import TopicPartition

from app.engine.api import Record
from app.kafka_clients import client_options, connected
from app.settings import Settings
from app.topic_admin import open_admin

#: Give up on a partition that brings nothing for this long although records should be there
#: (its last offsets may be transaction markers, which no consumer ever gets).
IDLE_S: Final = 2.0


@asynccontextmanager
async def open_consumer(settings: Settings, **options: Any) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
    """A started consumer without assignment; ``options`` are aiokafka's.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
    """
    base = client_options(settings) | {"enable_auto_commit": False, "auto_offset_reset": "none", "fetch_max_wait_ms": 100}
    async with connected(aiokafka.AIOKafkaConsumer(**(base | options)), settings) as consumer:
        yield consumer


async def partitions_of(settings: Settings, topic: str) -> list[TopicPartition]:
    """All partitions of a topic.

    Raises:
        UnknownTopicError: it does not exist. Asking never creates it.
    """
    async with open_admin(settings) as admin:
        return [TopicPartition(topic, number) for number in await admin.partitions(topic)]


async def read_last(consumer: aiokafka.AIOKafkaConsumer, tps: Sequence[TopicPartition], per_partition: int) -> list[Record]:
    """The newest ``per_partition`` offsets of each partition, oldest first by record time.

    Afterwards the consumer is assigned ``tps`` and stands where their ends were, so that it can go on reading.
    """
    begins = await consumer.beginning_offsets(tps)
    ends = await consumer.end_offsets(tps)
    starts = {tp: max(begins[tp], ends[tp] - per_partition) for tp in tps}
    records = await read_range(consumer, starts, ends)
    consumer.assign(tps)
    for tp in tps:
        consumer.seek(tp, ends[tp])
    return records


async def read_range(
    consumer: aiokafka.AIOKafkaConsumer, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> list[Record]:
    """All records with start <= offset < end, oldest first by record time."""
    left = [tp for tp, start in starts.items() if start < ends[tp]]
    if not left:
        return []
    consumer.assign(left)
    for tp in left:
        consumer.seek(tp, starts[tp])
    records: list[Record] = []
    moved = time.monotonic()
    while left and time.monotonic() - moved < IDLE_S:
        fetched = await consumer.getmany(*left, timeout_ms=200)
        if fetched:
            moved = time.monotonic()
        records += [record for tp, batch in fetched.items() for record in batch if record.offset < ends[tp]]
        left = [tp for tp in left if await consumer.position(tp) < ends[tp]]
    return in_time_order(records)


async def follow(consumer: aiokafka.AIOKafkaConsumer) -> AsyncIterator[list[Record]]:
    """New records of the assigned partitions, for ever; a list per fetch, in record time within it."""
    while True:
        fetched = await consumer.getmany(timeout_ms=1000)
        if fetched:
            yield in_time_order(record for batch in fetched.values() for record in batch)


def in_time_order(records: Iterable[Any]) -> list[Record]:
    """By record time, then partition and offset."""
    return cast("list[Record]", sorted(records, key=lambda record: (record.timestamp, record.partition, record.offset)))

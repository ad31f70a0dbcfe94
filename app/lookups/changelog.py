"""Re-reading a lane's changelog, for lookups that have fallen behind the table."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition

from app.engine.api import RESET_KEY
from app.kafka_clients import client_options, connect
from app.settings import Settings

CHUNK_RECORDS: Final = 2000
STALL_TIMEOUT_S: Final = 30.0

Chunk = dict[bytes, bytes | None]
OnChunk = Callable[[Chunk, int], Awaitable[None]]


class CannotReplay(Exception):
    """The changelog no longer tells what changed since: trimmed, or reset in between. Rebuild from the table."""


class Changelog(Protocol):
    """Access to changelog topics."""

    async def replay(self, topic: str, partition: int, after: int, until: int, on_chunk: OnChunk) -> None:
        """Call ``on_chunk(newest value per key, offset)`` for the records in ``(after, until]``.

        The offset says up to where the chunk reaches; that of the last chunk is ``until``.

        Raises:
            CannotReplay: records after ``after`` are gone, or a reset lies in between.
            TimeoutError: nothing arrived for 30 s.
        """
        ...


class KafkaChangelog:
    """The real one: a consumer without a group for the length of one replay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def replay(self, topic: str, partition: int, after: int, until: int, on_chunk: OnChunk) -> None:
        """See :class:`Changelog`."""
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, client_id=f"{self._settings.app_id}-lookups"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_partition_fetch_bytes=self._settings.fetch_max_partition_bytes,
        )
        try:
            await connect(consumer, self._settings)
            await _replay(consumer, TopicPartition(topic, partition), after, until, on_chunk)
        finally:
            await consumer.stop()


async def _replay(consumer: Any, source: TopicPartition, after: int, until: int, on_chunk: OnChunk) -> None:
    first = (await consumer.beginning_offsets([source]))[source]
    if first > after + 1:
        raise CannotReplay(f"changelog {source.topic}-{source.partition} begins at {first}, needed from {after + 1}")
    consumer.assign([source])
    consumer.seek(source, after + 1)
    clock = asyncio.get_running_loop()
    progressed_at, position = clock.time(), after + 1
    while position <= until:
        records = (await consumer.getmany(source, timeout_ms=500, max_records=CHUNK_RECORDS)).get(source, [])
        before, position = position, await consumer.position(source)
        if position > before:
            progressed_at = clock.time()
        elif clock.time() - progressed_at > STALL_TIMEOUT_S:
            raise TimeoutError(f"changelog {source.topic}-{source.partition} stopped at {position}, needed to {until}")
        chunk: Chunk = {record.key: record.value for record in records if record.key is not None and record.offset <= until}
        if RESET_KEY in chunk:
            raise CannotReplay(f"changelog {source.topic}-{source.partition} was reset")
        if position > before:
            await on_chunk(chunk, min(position - 1, until))

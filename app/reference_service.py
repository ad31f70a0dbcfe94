"""The reference cache of a worker: opened before the stream runs, closed after it, told of what changes.

Every worker reads all of ``reference-changes``, since each has a process cache of its own. It begins as far back as Redis
may hold an entry: rows may have changed while no worker ran.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from mode.services import Service
from redis.asyncio import Redis

from app.engine.guard import refuse
from app.enrichment.api import ReferenceConfigError, ReferenceSchemaError
from app.enrichment.cache import ReferenceCache
from app.enrichment.changes import UnreadableChange, change_key, change_value, parse_change
from app.enrichment.declaration import ReferenceTable
from app.enrichment.gates import REDIS_CALLS
from app.enrichment.join import Joiner
from app.kafka_clients import KafkaConnectError, client_options, connect, connected
from app.lookups.connect import redis_client
from app.settings import Settings
from app.topics import REFERENCE_CHANGES

log = structlog.get_logger(__name__)

#: Wait before the changes are read again after Kafka has failed, seconds.
RETRY_S: Final = 1.0
POLL_MS: Final = 200


class ReferenceService(Service):
    """Gives a joiner its cache for the life of the worker."""

    def __init__(self, settings: Settings, joiner: Joiner, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._joiner = joiner
        self._redis: Redis | None = None
        self.changes = 0
        """rows that somebody said have changed"""
        self.unreadable = 0
        """records of the topic that say nothing understandable"""

    async def on_start(self) -> None:
        """Open; a database or Redis that is away is no reason not to start, a wrong declaration is."""
        from app.enrichment.opening import open_reference  # SQLAlchemy: a seventh of a worker's start, for those who enrich

        settings = self._settings
        if settings.redis_url:
            timeout_s = settings.reference_redis_timeout_ms / 1000
            self._redis = redis_client(settings, "enrichment", timeout_s, REDIS_CALLS + 1)
        try:
            self._joiner.cache = await open_reference(settings, self._redis)
        except (ReferenceConfigError, ReferenceSchemaError) as exc:
            refuse(str(exc))
        self.add_future(self._follow())

    async def on_stop(self) -> None:
        """Close; the stream has stopped."""
        if self._joiner.cache is not None:
            await self._joiner.cache.aclose()
        if self._redis is not None:
            await self._redis.aclose()

    async def invalidate(self, table: str, keys: list[str]) -> None:
        """These rows have changed: forgotten here at once, and by every other worker as soon as it reads of it.

        Raises:
            UnknownReference: nobody declared this table.
            KafkaConnectError, KafkaError: the other workers could not be told.
        """
        await self._cache().invalidate(table, keys)
        producer = AIOKafkaProducer(**client_options(self._settings), acks="all", enable_idempotence=True)
        async with connected(producer, self._settings):
            sent = [await producer.send(REFERENCE_CHANGES, change_value(table, key), key=change_key(table, key)) for key in keys]
            await asyncio.gather(*sent)

    def _cache(self) -> ReferenceCache:
        cache = self._joiner.cache
        assert cache is not None, "the service has started"
        return cache

    async def _follow(self) -> None:
        """Read what changes, from before this worker's time on, until the end."""
        since_ms = time.time_ns() // 1_000_000 - _memory_ms(self._joiner.tables.values())
        while not self.should_stop:
            try:
                await self._follow_from(since_ms)
            except (KafkaError, KafkaConnectError, OSError) as exc:
                log.warning("reference_changes_not_read", reason=str(exc))
                await asyncio.sleep(RETRY_S)

    async def _follow_from(self, since_ms: int) -> None:
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, client_id=f"{self._settings.app_id}-reference-changes"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            await connect(consumer, self._settings)
            await _seek(consumer, [TopicPartition(REFERENCE_CHANGES, n) for n in range(self._settings.partitions)], since_ms)
            while not self.should_stop:
                for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                    await self._apply(records)
        finally:
            await consumer.stop()

    async def _apply(self, records: Iterable[Any]) -> None:
        changed: dict[str, list[str]] = {}
        for record in records:
            try:
                pairs = parse_change(record.key, record.value, self._joiner.tables)
            except UnreadableChange as exc:
                self.unreadable += 1
                log.warning("reference_change_unreadable", partition=record.partition, offset=record.offset, reason=str(exc))
                continue
            for table, key in pairs:
                changed.setdefault(table, []).append(key)
        for table, keys in changed.items():
            self.changes += len(keys)
            await self._cache().invalidate(table, keys)


async def _seek(consumer: AIOKafkaConsumer, partitions: list[TopicPartition], since_ms: int) -> None:
    """To the first record since then; to the end where there is none."""
    consumer.assign(partitions)
    found: Mapping[TopicPartition, Any] = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
    ends = await consumer.end_offsets(partitions)
    for tp in partitions:
        at = found.get(tp)
        consumer.seek(tp, ends[tp] if at is None else at.offset)


def _memory_ms(tables: Iterable[ReferenceTable]) -> int:
    """How old an entry in Redis can be."""
    return max((int(1000 * (table.ttl_s + table.stale_if_error_s)) for table in tables), default=0)

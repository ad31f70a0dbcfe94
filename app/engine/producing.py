"""Sending RecordBatches without transactions: idempotent, acks=all, in order per partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.writer import Addressed

log = structlog.get_logger(__name__)

Ack = asyncio.Future[Any]


class Producing(Protocol):
    """How RecordBatches reach Kafka at least once."""

    async def publish(self, batches: Iterable[Addressed]) -> list[Ack]:
        """Queue outputs and dead letters; the futures are done when the broker has acknowledged them."""
        ...

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        """Append a unit's changelog batch and wait for its acknowledgement; returns its base offset."""
        ...


class IdempotentProducing:
    """Plain idempotent producing."""

    def __init__(self, producer: Callable[[], AIOKafkaProducer]) -> None:
        self._producer = producer

    async def publish(self, batches: Iterable[Addressed]) -> list[Ack]:
        """See :class:`Producing`."""
        return [await self._send(topic, partition, batch) for topic, partition, batch in batches]

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        """See :class:`Producing`."""
        metadata = await (await self._send(topic, partition, batch))
        offset: int = metadata.offset
        return offset

    async def _send(self, topic: str, partition: int, batch: BatchBuilder) -> Ack:
        batch.close()
        while True:
            try:
                ack: Ack = await self._producer().send_batch(batch, topic, partition=partition)
            except KafkaTimeoutError:
                # Nothing was queued: the broker has not taken this partition's previous batch yet. An idempotent
                # batch never expires, so waiting is the only way on that keeps the order.
                log.warning("produce_waits_for_broker", topic=topic, partition=partition)
            else:
                return ack

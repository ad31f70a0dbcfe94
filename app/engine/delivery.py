"""The one place that produces: outputs and dead letters, then the changelog batch that covers them.

At least once: each send is idempotent with acks=all and awaited by the caller before the next step.
Exactly once will be another implementation of :class:`Delivery` that wraps the same calls in a Kafka
transaction; lanes do not know the difference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

log = structlog.get_logger(__name__)

Ack = asyncio.Future[Any]


class Delivery(Protocol):
    """How a unit reaches Kafka."""

    async def publish(self, partition: int, batches: Mapping[str, list[BatchBuilder]]) -> list[Ack]:
        """Queue outputs and dead letters; the futures are done when the broker has acknowledged them."""
        ...

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        """Append a unit's changelog batch and wait for its acknowledgement; returns its base offset."""
        ...


class AtLeastOnce:
    """Plain idempotent producing."""

    def __init__(self, producer: Callable[[], AIOKafkaProducer]) -> None:
        self._producer = producer

    async def publish(self, partition: int, batches: Mapping[str, list[BatchBuilder]]) -> list[Ack]:
        """See :class:`Delivery`."""
        return [await self._send(topic, partition, batch) for topic, parts in batches.items() for batch in parts]

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        """See :class:`Delivery`."""
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

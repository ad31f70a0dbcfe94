"""Sending RecordBatches without transactions: idempotent, acks=all, in order per partition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError, TopicAuthorizationFailedError
from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.writer import Addressed

log = structlog.get_logger(__name__)

Ack = asyncio.Future[Any]

_ADVICE: Final[dict[type[BaseException], str]] = {
    MessageSizeTooLargeError: "its max.message.bytes is too small: `veltrix topics apply` mends it",
    TopicAuthorizationFailedError: "allow this worker's user to write to it",
}


class SendFailed(Exception):
    """The broker did not take a RecordBatch. Whatever it was part of is not durable, so the next start repeats it."""

    def __init__(self, topic: str, cause: BaseException) -> None:
        advice = _ADVICE.get(type(cause), "the broker's log says why")
        super().__init__(f"{topic} does not take our records ({advice}): {type(cause).__name__}: {cause}")
        self.topic = topic
        self.retriable = bool(getattr(cause, "retriable", False))


class Producing(Protocol):
    """How RecordBatches reach Kafka at least once."""

    async def publish(self, batches: Iterable[Addressed]) -> list[Ack]:
        """Queue outputs and dead letters; the futures, one a batch, are done when the broker has acknowledged them."""
        ...

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        """Append a unit's changelog batch and wait for its acknowledgement; returns its base offset.

        Raises:
            SendFailed: the broker does not take it.
        """
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
        ack = await self._send(topic, partition, batch)
        try:
            offset: int = (await ack).offset
        except KafkaError as exc:
            raise SendFailed(topic, exc) from exc
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

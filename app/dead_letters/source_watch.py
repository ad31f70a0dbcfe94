"""How far the workers are in the source: what a replay waits for, and what it must not burden."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.dead_letters.api import DeadLettersUnavailable
from app.dead_letters.deeds import Place
from app.kafka_clients import KafkaConnectError, client_options, connect, leave, stray_cancellations
from app.settings import Settings

CALL_TIMEOUT_S: Final = 10.0


class SourceWatch:
    """Asks Kafka for the workers' committed offsets and the ends of their source; joins no group. Calls take turns."""

    def __init__(self, settings: Settings, sources: Mapping[str, int]) -> None:
        self._settings = settings
        self._partitions = [TopicPartition(topic, number) for topic, count in sources.items() for number in range(count)]
        self._lock = asyncio.Lock()
        self._consumer: Any = None

    async def lag(self) -> int:
        """Records that the workers have not committed.

        Raises:
            DeadLettersUnavailable: Kafka does not answer.
        """
        committed, ends = await self._ask()
        return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())

    async def is_past(self, places: Mapping[TopicPartition, int]) -> bool:
        """The workers have committed all of these offsets.

        Raises:
            DeadLettersUnavailable: Kafka does not answer.
        """
        committed, _ = await self._ask()
        return all(committed.get(partition, 0) > offset for partition, offset in places.items())

    async def aclose(self) -> None:
        """Disconnect."""
        async with self._lock:
            await self._drop()

    async def _ask(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        try:
            async with self._lock, asyncio.timeout(CALL_TIMEOUT_S):
                with stray_cancellations():
                    return await self._look()
        except (KafkaError, KafkaConnectError, OSError, TimeoutError) as exc:
            await self._drop()
            raise DeadLettersUnavailable(f"the position of the workers is not known: {exc!r}") from exc

    async def _look(self) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        consumer = await self._open()
        committed = {tp: await consumer.committed(tp) or 0 for tp in self._partitions}
        return committed, await consumer.end_offsets(self._partitions)

    async def _open(self) -> Any:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **client_options(self._settings, client_id=f"{self._settings.app_id}-replay-watch"),
                group_id=self._settings.app_id,
                enable_auto_commit=False,
                isolation_level="read_committed",
            )
            try:
                await connect(consumer, self._settings)
                consumer.assign(self._partitions)
                consumer.pause(*self._partitions)
            except BaseException:
                await consumer.stop()
                raise
            self._consumer = consumer
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await leave(consumer)


def highest(places: list[Place]) -> dict[TopicPartition, int]:
    """The last offset per partition."""
    found: dict[TopicPartition, int] = {}
    for topic, partition, offset in places:
        tp = TopicPartition(topic, partition)
        found[tp] = max(offset, found.get(tp, -1))
    return found

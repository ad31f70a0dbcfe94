"""Bounded reads of topic partitions, without a consumer group: nothing is committed, nobody is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Self, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.dead_letters.api import DeadLettersUnavailable
from app.engine.api import Record
from app.kafka_clients import KafkaConnectError, client_options, connect, stray_cancellations
from app.settings import Settings

#: A long poll in flight delays the next read on the same connection.
FETCH_MAX_WAIT_MS: Final = 50
FETCH_BYTES: Final = 256 * 1024
NEW_TOPIC_LOOKS: Final = 5
NEW_TOPIC_PAUSE_S: Final = 0.2
CALL_TIMEOUT_S: Final = 10.0

T = TypeVar("T")


class Window(NamedTuple):
    """Offsets ``[begin, end)``."""

    begin: int
    end: int


class TopicLog:
    """One connected consumer. Not for several tasks at once: its caller holds a lock."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._partitions: dict[str, list[TopicPartition]] = {}

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect.

        Raises:
            KafkaConnectError: no broker answers as it should.
        """
        consumer = AIOKafkaConsumer(
            **client_options(settings, client_id=f"{settings.app_id}-dead-letters"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # retention may take the first records of a window while it is read
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            max_partition_fetch_bytes=FETCH_BYTES,
        )
        try:
            await connect(consumer, settings)
        except BaseException:
            await consumer.stop()
            raise
        return cls(consumer)

    async def close(self) -> None:
        """Disconnect."""
        await self._consumer.stop()

    async def partitions(self, topic: str) -> list[TopicPartition]:
        """All partitions of ``topic``.

        Raises:
            DeadLettersUnavailable: the topic does not exist.
        """
        known = self._partitions.get(topic)
        if known is None:
            await self._require(topic)
            await self._consumer.beginning_offsets([TopicPartition(topic, 0)])  # from here on its metadata is kept
            numbers = sorted(self._consumer.partitions_for_topic(topic) or ())
            known = self._partitions[topic] = [TopicPartition(topic, number) for number in numbers]
        return known

    async def _require(self, topic: str) -> None:
        """A broker hears of a topic a little after its creation was answered, so one look is not enough."""
        for _ in range(NEW_TOPIC_LOOKS):
            if topic in await self._consumer.topics():
                return
            await asyncio.sleep(NEW_TOPIC_PAUSE_S)
        raise DeadLettersUnavailable(f"topic {topic} does not exist: run `veltrix topics apply`")

    async def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Window]:
        """First offset and end of each partition, as committed readers see it."""
        begin = await self._consumer.beginning_offsets(list(partitions))
        end = await self._consumer.end_offsets(list(partitions))
        return {partition: Window(begin[partition], end[partition]) for partition in partitions}

    async def offsets_at(self, partitions: Collection[TopicPartition], epoch_ms: int) -> dict[TopicPartition, int | None]:
        """Offset of the first record at or after that time; None where there is none."""
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, max(0, epoch_ms)))
        return {partition: None if at is None else at.offset for partition, at in found.items()}

    async def read(self, windows: Mapping[TopicPartition, Window]) -> dict[TopicPartition, list[Record]]:
        """Every record inside the windows, in offset order. May wait for ever: the caller bounds the time."""
        found: dict[TopicPartition, list[Record]] = {partition: [] for partition in windows}
        open_ends = {partition: window.end for partition, window in windows.items() if window.begin < window.end}
        if not open_ends:
            return found
        consumer = self._consumer
        consumer.assign(list(open_ends))
        try:
            for partition in open_ends:
                consumer.seek(partition, windows[partition].begin)
            while open_ends:
                for partition, records in (await consumer.getmany(*open_ends, timeout_ms=500)).items():
                    found[partition] += [record for record in records if record.offset < open_ends[partition]]
                for partition in list(open_ends):
                    if await consumer.position(partition) >= open_ends[partition]:
                        del open_ends[partition]
                        consumer.pause(partition)
                await asyncio.sleep(0)
        finally:
            consumer.pause(*consumer.assignment())  # or it would go on polling between the calls
        return found


class SharedLog:
    """A :class:`TopicLog` that is opened by the first question and shared by all: they take turns, each bounded."""

    def __init__(self, settings: Settings, timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._settings, self._timeout_s = settings, timeout_s
        self._lock = asyncio.Lock()
        self._log: TopicLog | None = None

    async def ask(self, work: Callable[[TopicLog], Awaitable[T]]) -> T:
        """What ``work`` finds.

        Raises:
            DeadLettersUnavailable: Kafka does not answer in time; the next question connects again.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._lock:
                with stray_cancellations():
                    return await self._attempt(work)
        except TimeoutError:
            raise DeadLettersUnavailable(f"Kafka did not answer within {self._timeout_s:g} s") from None
        except KafkaError as exc:
            raise DeadLettersUnavailable(str(exc)) from exc

    async def aclose(self) -> None:
        """Disconnect; a later question connects again."""
        async with self._lock:
            await self._drop()

    async def _attempt(self, work: Callable[[TopicLog], Awaitable[T]]) -> T:
        try:
            if self._log is None:
                self._log = await TopicLog.open(self._settings)
            return await work(self._log)
        except (KafkaError, KafkaConnectError, OSError) as exc:
            await self._drop()
            raise DeadLettersUnavailable(str(exc)) from exc
        except asyncio.CancelledError:
            await self._drop()  # timed out, or the caller left: a half-done read must not meet the next one
            raise

    async def _drop(self) -> None:
        log, self._log = self._log, None
        if log is not None:
            await log.close()

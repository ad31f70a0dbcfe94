"""Keeping an index up with Kafka: reads the queues and the state topic from where the index stands, for ever.

No consumer group: the positions are in the index, in the same transaction as what was read. What Kafka does not give at
the moment is waited for; what retention has taken is forgotten; a topic that was made again is read again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from app.dead_letters.api import DeadLettersUnavailable
from app.dead_letters.dialects import decode_any
from app.dead_letters.index.writing import IndexWriter
from app.engine.api import Record
from app.kafka_clients import KafkaConnectError, client_options, connect, leave, stray_cancellations
from app.settings import Settings
from app.topic_admin import TopicAdminError, topic_ids

log = structlog.get_logger(__name__)

#: Records of one transaction of the index: 1,000 take about 0.15 s.
BATCH_RECORDS: Final = 1000
#: How long one wait for records may last, ms; bounds how late a stop is noticed.
WAIT_MS: Final = 500
#: How often the broker is asked where the topics end, seconds: a consumer alone does not notice that it is away.
ASK_S: Final = 5.0
ASK_TIMEOUT_S: Final = 10.0
#: How often what retention has taken is looked for, seconds.
PURGE_S: Final = 60.0
#: Wait before another attempt when Kafka is away, seconds.
BACK_OFF_S: Final = 2.0

T = TypeVar("T")


class IndexFollower:
    """Reads into ``writer``. ``run`` is a coroutine to start and cancel; all writing is done in one thread of its own.

    Args:
        settings: where Kafka is.
        queues: dead letter topics.
        state_topic: what was done about them.
        writer: used by nobody else.
    """

    def __init__(self, settings: Settings, queues: Sequence[str], state_topic: str, writer: IndexWriter) -> None:
        self.problem: str | None = "not connected yet"
        """why the index does not move; None while it does"""
        self.is_built = False
        """it was up with Kafka once since this process started"""
        self.added = 0
        """letters indexed since this process started"""
        self._settings, self._queues, self._state_topic, self._writer = settings, tuple(queues), state_topic, writer
        self._thread = ThreadPoolExecutor(1, "dead-letter-index")
        self._lag: dict[TopicPartition, int] = {}
        self._moved = asyncio.Event()
        self._positions: dict[tuple[str, int], int] = {}

    @property
    def lag(self) -> int | None:
        """Records not yet folded in; None while nobody tells where the topics end."""
        return sum(self._lag.values()) if self._lag and self.problem is None else None

    async def run(self) -> None:
        """Follow until cancelled."""
        try:
            while True:
                try:
                    with stray_cancellations():
                        await self._session()
                except (DeadLettersUnavailable, KafkaError, KafkaConnectError, TopicAdminError, OSError) as exc:
                    self.problem = str(exc) or repr(exc)
                    log.warning("dead_letter_index_waits", reason=self.problem)
                except Exception as exc:  # a full disk may be made room on: it is said in /readyz, and tried again
                    self.problem = f"{type(exc).__name__}: {exc}"
                    log.exception("dead_letter_index_failed")
                await asyncio.sleep(BACK_OFF_S)
        finally:
            await self._in_thread(self._writer.close)
            self._thread.shutdown()

    async def folded(self, topic: str, partition: int, offset: int, timeout_s: float = 5.0) -> bool:
        """Wait until the record at ``offset`` is folded in, so that a caller reads its own write; False: not in time."""
        deadline = time.monotonic() + timeout_s
        while self._positions.get((topic, partition), 0) <= offset:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), left)
            except TimeoutError:
                return False
        return True

    # -- one connection ---------------------------------------------------------------------------

    async def _session(self) -> None:
        await self._forget_recreated()
        consumer = AIOKafkaConsumer(
            **client_options(self._settings, client_id=f"{self._settings.app_id}-dead-letter-index"),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_poll_records=BATCH_RECORDS,
        )
        try:
            await connect(consumer, self._settings)
            await self._assign(consumer)
            self.problem = None
            await self._follow(consumer)
        finally:
            await leave(consumer)

    async def _forget_recreated(self) -> None:
        """A topic with another id has nothing to do with what the index holds of it."""
        ids = await topic_ids(self._settings, [*self._queues, self._state_topic])
        known = await self._in_thread(self._writer.topic_ids)
        for topic, found in ids.items():
            if known.get(topic, found) != found:
                log.warning("dead_letter_topic_was_recreated", topic=topic)
                await self._in_thread(partial(self._writer.forget_topic, topic))
        await self._in_thread(partial(self._writer.remember_ids, ids))

    async def _assign(self, consumer: Any) -> None:
        present = await consumer.topics()
        missing = [topic for topic in (*self._queues, self._state_topic) if topic not in present]
        if missing:
            raise DeadLettersUnavailable(f"topic {', '.join(missing)} does not exist: run `veltrix topics apply`")
        topics = (*self._queues, self._state_topic)
        await consumer.beginning_offsets([TopicPartition(topic, 0) for topic in topics])  # from here on their metadata is kept
        partitions = [TopicPartition(topic, number) for topic in topics for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        self._positions = await self._in_thread(self._writer.positions)
        begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        for partition in partitions:
            start = max(begins[partition], self._positions.get((partition.topic, partition.partition), 0))
            consumer.seek(partition, start)
            self._lag[partition] = max(0, ends[partition] - start)

    async def _follow(self, consumer: Any) -> None:
        purged_at = asked_at = -PURGE_S
        while True:
            if time.monotonic() - purged_at >= PURGE_S:
                await self._purge(consumer)
                purged_at = time.monotonic()
            if time.monotonic() - asked_at >= ASK_S:
                await self._ask(consumer)
                asked_at = time.monotonic()
            fetched: Mapping[TopicPartition, list[Record]] = await consumer.getmany(timeout_ms=WAIT_MS, max_records=BATCH_RECORDS)
            if fetched:
                await self._fold(fetched)
            await self._measure(consumer)

    async def _fold(self, fetched: Mapping[TopicPartition, list[Record]]) -> None:
        records = [record for tp, batch in fetched.items() if tp.topic != self._state_topic for record in batch]
        states = [record for tp, batch in fetched.items() if tp.topic == self._state_topic for record in batch]
        ends = {(tp.topic, tp.partition): batch[-1].offset + 1 for tp, batch in fetched.items()}
        of_states = {place: end for place, end in ends.items() if place[0] == self._state_topic}
        of_letters = {place: end for place, end in ends.items() if place[0] != self._state_topic}
        if records:
            self.added += await self._in_thread(lambda: self._writer.add([*map(decode_any, records)], of_letters))
        if states:
            await self._in_thread(lambda: self._writer.fold(states, of_states))
        self._positions |= ends
        self._moved.set()

    async def _measure(self, consumer: Any) -> None:
        for partition in consumer.assignment():
            end = consumer.highwater(partition)
            if end is not None:
                await self._note_end(consumer, partition, end)
        self.is_built = self.is_built or self.lag == 0

    async def _ask(self, consumer: Any) -> None:
        async with asyncio.timeout(ASK_TIMEOUT_S):
            for partition, end in (await consumer.end_offsets(list(consumer.assignment()))).items():
                await self._note_end(consumer, partition, end)

    async def _note_end(self, consumer: Any, partition: TopicPartition, end: int) -> None:
        self._lag[partition] = max(0, end - await consumer.position(partition))

    async def _purge(self, consumer: Any) -> None:
        queues = [partition for partition in consumer.assignment() if partition.topic != self._state_topic]
        for partition, begin in (await consumer.beginning_offsets(queues)).items():
            gone = await self._in_thread(partial(self._writer.drop_below, partition.topic, partition.partition, begin))
            if gone:
                log.info("dead_letters_expired", topic=partition.topic, partition=partition.partition, count=gone)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

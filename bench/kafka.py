"""What the benchmark asks of Kafka: topics made anew, offsets, all records of a topic."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

from app.topics import Topic

TIMEOUT_S = 20.0
READ_BATCH = 5000
NO_LEADER_YET = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,  # what the client knows is of the topic that was deleted
)


class BrokerError(Exception):
    """Kafka did not do what the benchmark needs; the message says which topic."""


class Kafka:
    """One admin connection, used from one thread."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})  # it outlives the broker by a moment
        self._counts: dict[str, int] = {}

    def recreate(self, topics: Iterable[Topic], replication: int = 1) -> None:
        """Delete what exists of ``topics`` and create all of them, empty."""
        wanted = {topic.name: topic for topic in topics}
        self.delete(wanted)
        new = [
            NewTopic(t.name, num_partitions=t.partitions, replication_factor=replication, config=dict(t.config))
            for t in wanted.values()
        ]
        for future in self._admin.create_topics(new, operation_timeout=TIMEOUT_S).values():
            future.result(TIMEOUT_S)
        self._wait(lambda have: wanted.keys() <= have.keys(), f"{sorted(wanted)} did not appear")
        for name in wanted:
            self.end_offsets(name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete those of ``names`` that exist and wait until they are gone."""
        self._counts.clear()
        existing = sorted(set(names) & self._topics().keys())
        if not existing:
            return
        for future in self._admin.delete_topics(existing, operation_timeout=TIMEOUT_S).values():
            future.result(TIMEOUT_S)
        self._wait(lambda have: not have.keys() & set(existing), f"{existing} did not go away")

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Offset of the next record of each partition, in one request."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            try:
                return self._end_offsets(topic)
            except KafkaException as exc:
                # A topic that was just created has no leader for a moment.
                if exc.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def count(self, topic: str) -> int:
        """Offsets ever used in a topic that was created empty: its records, and a marker per transaction and partition."""
        return sum(self.end_offsets(topic).values())

    def read_all(self, topic: str) -> Iterator[Message]:
        """Every record that is in the topic now, partitions mixed."""
        ends = {partition: end for partition, end in self.end_offsets(topic).items() if end > 0}
        consumer = Consumer(reader_config(self.bootstrap) | {"queued.max.messages.kbytes": 65536, "enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
            yield from _until(consumer, ends, topic)
        finally:
            consumer.close()

    def _end_offsets(self, topic: str) -> dict[int, int]:
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(topic, partition): latest for partition in range(self._partitions(topic))}
        answers = self._admin.list_offsets(wanted, request_timeout=TIMEOUT_S)
        return {tp.partition: int(future.result(TIMEOUT_S).offset) for tp, future in answers.items()}

    def _partitions(self, topic: str) -> int:
        """Partition count, asked once: it changes only by ``recreate``, which forgets it."""
        if topic not in self._counts:
            self._counts[topic] = self._topics().get(topic, 0)
        return self._counts[topic]

    def _topics(self) -> dict[str, int]:
        return {name: len(meta.partitions) for name, meta in self._admin.list_topics(timeout=TIMEOUT_S).topics.items()}

    def _wait(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not done(self._topics()):
            if time.monotonic() > deadline:
                raise BrokerError(f"Kafka: {what} within {TIMEOUT_S:g} s")
            time.sleep(0.05)


class GroupOffsets:
    """Committed offsets of a consumer group, read without joining it. Close it after use."""

    def __init__(self, bootstrap: str, group: str) -> None:
        self._consumer = Consumer(reader_config(bootstrap) | {"group.id": group})

    def committed(self, topic: str, partitions: int) -> dict[int, int]:
        """Committed next offset of each partition; 0 where nothing is committed."""
        asked = [TopicPartition(topic, partition) for partition in range(partitions)]
        return {tp.partition: max(0, tp.offset) for tp in self._consumer.committed(asked, timeout=TIMEOUT_S)}

    def close(self) -> None:
        self._consumer.close()


def reader_config(bootstrap: str) -> dict[str, Any]:
    """Settings of a consumer that is assigned by hand and commits nothing."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "bench-reader",
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
    }


def _until(consumer: Consumer, ends: Mapping[int, int], topic: str) -> Iterator[Message]:
    """Records up to ``ends``. Offsets may have holes (markers of transactions), so a partition ends where the broker says."""
    left = set(ends)
    while left:
        batch = consumer.consume(READ_BATCH, TIMEOUT_S)
        if not batch:
            raise BrokerError(f"Kafka: {topic} gave nothing for {TIMEOUT_S:g} s, partitions {sorted(left)} are not at their end")
        for message in batch:
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition() or 0)
            elif error is not None:
                raise KafkaException(error)
            elif (message.offset() or 0) < ends[message.partition() or 0]:
                yield message

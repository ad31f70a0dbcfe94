"""Building RecordBatches: one per topic, partition and unit.

The changelog batch of a unit is never split, since its atomicity is what makes keys, marker and offset
one (``compute`` sees to it that it fits). Outputs may be split freely.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.api import Header, Output, Record

TopicPartition = tuple[str, int]
Addressed = tuple[str, int, BatchBuilder]
"""Topic, partition and what to send there"""


class BatchOverflow(Exception):
    """A record does not fit a RecordBatch although ``compute`` checked the sizes: a bug, never shown to users."""

    def __init__(self, topic: str, limit: int) -> None:
        super().__init__(f"a record for {topic} does not fit a batch of {limit} bytes")
        self.topic = topic


class Batches:
    """RecordBatches for one topic, filled in order; a full one is left and the next begun."""

    __slots__ = ("_append", "_limit", "_topic", "_transactional", "done")

    def __init__(self, topic: str, limit: int, transactional: bool = False) -> None:
        self._topic = topic
        self._limit = limit
        self._transactional = transactional
        self.done: list[BatchBuilder] = []
        self._begin()

    def append(self, timestamp: int, key: bytes | None, value: bytes | None, headers: list[Header]) -> None:
        """Add one record; ``timestamp`` is epoch ms."""
        builder = self.done[-1]
        index = builder._relative_offset
        if self._append(index, timestamp, key, value, headers) is None:
            builder, index = self._begin(), 0
            self._append(0, timestamp, key, value, headers)
        builder._relative_offset = index + 1
        if index == 0 and builder.size() > self._limit:  # the C builder takes a first record of any size
            raise BatchOverflow(self._topic, self._limit)

    def _begin(self) -> BatchBuilder:
        builder = new_builder(self._limit, self._transactional)
        # aiokafka's BatchBuilder.append costs as much again in keyword arguments and serializer checks as the C
        # builder under it needs (measured: 51 -> 58 k events per CPU-second), so this goes to the C builder.
        self._append = builder._builder.append
        self.done.append(builder)
        return builder


class TopicBatches:
    """RecordBatches per topic and partition for one unit."""

    def __init__(self, limit: int, transactional: bool = False) -> None:
        self._limit = limit
        self._transactional = transactional
        self._batches: dict[TopicPartition, Batches] = {}

    def of(self, topic: str, partition: int) -> Batches:
        """Those of one partition."""
        batches = self._batches.get((topic, partition))
        if batches is None:
            batches = self._batches[topic, partition] = Batches(topic, self._limit, self._transactional)
        return batches

    def counts(self) -> dict[str, int]:
        """Records so far, by topic."""
        found: dict[str, int] = {}
        for (topic, _), batches in self._batches.items():
            found[topic] = found.get(topic, 0) + sum([batch._relative_offset for batch in batches.done])
        return found

    def done(self) -> list[Addressed]:
        """What was built, in order per partition."""
        return [(topic, partition, batch) for (topic, partition), batches in self._batches.items() for batch in batches.done]


def new_builder(limit: int, transactional: bool = False) -> BatchBuilder:
    """An empty RecordBatch of at most ``limit`` bytes.

    ``transactional`` must be said here: a transactional producer sends a plain batch as it is, visible whatever becomes
    of the transaction.
    """
    return BatchBuilder(limit, 0, is_transactional=transactional)


def changelog_batch(
    topic: str, writes: Mapping[bytes, bytes | None], now_ms: int, limit: int, *, transactional: bool = False
) -> BatchBuilder:
    """One RecordBatch with every write of a unit in order (its marker last)."""
    builder = new_builder(limit, transactional)
    append = builder._builder.append
    for index, (key, value) in enumerate(writes.items()):
        if append(index, now_ms, key, value, []) is None:
            raise BatchOverflow(topic, limit)
    builder._relative_offset = len(writes)
    if builder.size() > limit:  # the C builder takes a first record of any size
        raise BatchOverflow(topic, limit)
    return builder


def add_outputs(
    batches: TopicBatches,
    outputs: Iterable[tuple[Record, Output]],
    partition: int,
    processed_at_ms: int,
    traced: Mapping[int, tuple[Header, ...]] = MappingProxyType({}),
) -> None:
    """Add ``outputs`` of a lane; each keeps its source's timestamp and says where it came from.

    Header ``veltrix-source`` is topic:partition:offset:index (index counts the outputs of one source
    record), the identity by which an idempotent consumer drops a repetition; ``processed_at`` is epoch ms
    and a header because the value must be the same when the record is processed again. ``traced``: headers by source
    offset, for a few of the records.
    """
    processed_at = ("processed_at", b"%d" % processed_at_ms)
    last_offset, index, origin, last_topic, last_partition = -1, 0, b"", "", None
    for record, output in outputs:
        offset, topic, headers = record.offset, output.topic, output.headers
        if topic != last_topic or output.partition != last_partition:
            last_topic, last_partition = topic, output.partition
            append = batches.of(topic, partition if last_partition is None else last_partition).append
        if offset != last_offset:
            if not origin:
                origin = f"{record.topic}:{record.partition}:".encode()
            last_offset, index = offset, 0
        source = ("veltrix-source", b"%b%d:%d" % (origin, offset, index))
        if traced and offset in traced:
            headers = (*headers, *traced[offset])
        append(record.timestamp, output.key, output.value, [*headers, source, processed_at] if headers else [source, processed_at])
        index += 1

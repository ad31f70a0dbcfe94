"""The yardstick: the main job as a competent programmer writes it by hand, with no framework.

One loop over confluent-kafka (librdkafka) and rocksdict. It shares the domain code, so both do the same work per event
and give the same bytes; everything around it is the plain way: poll up to 1000 records, group them by partition, one
multi-get and one WriteBatch per partition and batch. Its promises are the worker's, at least once: outputs and dead
letters are flushed, then the changelog (its marker last), then RocksDB is written, then offsets are committed.

What it leaves out, in its own favour: metrics, lookups by HTTP, isolation of poison records, a guard of Redis writes
against older ones, a worker that survives a dead Redis, and a restore that begins at the local state.

``python -m bench.handloop SOURCE_TOPIC``; settings from the same environment variables as the worker's.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from redis import Redis
from rocksdict import Rdict, WriteBatch

from agents.process_interactions import Rules
from app.domain.dedupe import Chunk
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from app.domain.events import Interaction
from app.domain.fold import BatchFold
from app.domain.validation import classify
from app.engine.store import StoreOptions
from app.settings import Settings, load_settings
from app.topics import changelog_of, dead_letters_of
from tables.seen_ids import seen_ids
from tables.user_profiles import user_profiles

AGENT, SOURCE, ENRICHED = "byhand", "interactions-byhand", "interactions-enriched-byhand"
BATCH, RESTORE_BATCH = 1000, 10_000
FLUSH_S, COMMIT_S = 30.0, 0.3
MARKER = b"\0next"  # no user key begins with NUL

Writes = dict[bytes, bytes | None]
Headers = list[tuple[str, str | bytes | None]]


class Source(NamedTuple):
    """A consumed record with the fields that the domain reads; headers are not copied, no source event has any."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: Sequence[tuple[str, bytes | None]] = ()


class HandLoop:
    """One consumer of the source topic with the state of its partitions."""

    def __init__(self, settings: Settings, source: str) -> None:
        self._settings, self._source, self._rules = settings, source, Rules.from_settings(settings)
        self._changelog, self._dead_letters = changelog_of(settings.app_id, AGENT), dead_letters_of(settings.app_id, source)
        self._options = StoreOptions.of(settings)
        self._redis: Redis | None = Redis.from_url(settings.redis_url) if settings.redis_url else None
        self._kafka = {"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id, "enable.auto.commit": False}
        strict = {"enable.idempotence": True, "acks": "all", "delivery.report.only.error": True}
        quick = {"linger.ms": 5, "batch.size": 1_000_000}
        self._producer = Producer({"bootstrap.servers": settings.kafka_bootstrap} | strict | quick)
        # Without the short back-off a queue that was full once is refilled a second later.
        fetching = {
            "fetch.wait.max.ms": settings.fetch_max_wait_ms,
            "fetch.queue.backoff.ms": 10,
            "queued.max.messages.kbytes": 16_384,
        }
        self._consumer = Consumer(self._kafka | {"auto.offset.reset": "earliest", "session.timeout.ms": 10_000} | fetching)
        self._databases: dict[int, Rdict] = {}
        self._next: dict[int, int] = {}
        self._failed: list[KafkaError] = []
        self._committed_at = 0.0
        self._stopping = False

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stopping", True))
        self._consumer.subscribe([self._source], on_assign=self._assigned, on_revoke=self._revoked)
        while not self._stopping:
            first = self._consumer.poll(0.1)
            if first is not None:
                self._process([first, *self._consumer.consume(BATCH - 1, 0)])
            if self._next and time.monotonic() - self._committed_at > COMMIT_S:
                self._commit(asynchronous=True)
        self._consumer.close()

    def _process(self, messages: Iterable[Message]) -> None:
        partitions: dict[int, list[Source]] = defaultdict(list)
        for message in messages:
            record = _source(message)
            partitions[record.partition].append(record)
        writes = {partition: self._compute(partition, records) for partition, records in partitions.items()}
        self._flush()  # outputs first: the marker in the changelog says that they are there
        for partition, changed in writes.items():
            changed[MARKER] = b"%d" % (partitions[partition][-1].offset + 1)
            for key, value in changed.items():
                self._producer.produce(self._changelog, value, key, partition, on_delivery=self._on_delivery)
        self._flush()
        for partition, changed in writes.items():
            self._databases[partition].write(_write_batch(changed.items()))
            self._next[partition] = partitions[partition][-1].offset + 1
        self._write_through(writes.values())

    def _compute(self, partition: int, records: Iterable[Source]) -> Writes:
        """Run the domain over records of one partition and produce what it says; returns the changed state."""
        valid: list[tuple[Source, Interaction]] = []
        for record in records:
            result = classify(record, self._rules.limits)
            if isinstance(result, Rejection):
                self._dead_letter(record, result)
            else:
                valid.append((record, result))
        fold = self._open_fold(self._databases[partition], list({interaction.user_key for _, interaction in valid}))
        now, prefix = b"%d" % (time.time_ns() // 1_000_000), f"{self._source}:{partition}:"
        produce, on_delivery = self._producer.produce, self._on_delivery
        for record, interaction in valid:
            sequence = fold.add(interaction, record.timestamp)
            if sequence is not None:
                value = enrich(record.value or b"", sequence, record.timestamp, interaction.event.has_veltrix)
                headers: Headers = [("veltrix-source", f"{prefix}{record.offset}:0"), ("processed_at", now)]
                produce(
                    ENRICHED, value, record.key, partition, on_delivery=on_delivery, timestamp=record.timestamp, headers=headers
                )
        fold.give_back(self._rules.closed_ids)
        writes: Writes = {user_profiles.raw_key(user): user_profiles.encode(profile) for user, profile in fold.profiles.items()}
        chunks = {seen_ids.raw_key(key): None if chunk is None else seen_ids.encode(chunk) for key, chunk in fold.chunks.items()}
        return writes | chunks

    def _open_fold(self, database: Rdict, users: list[str]) -> BatchFold:
        found = _get_many(database, [user_profiles.raw_key(user) for user in users])
        profiles = {user: user_profiles.decode(raw) for user, raw in zip(users, found, strict=True) if raw is not None}
        recents = {user: profile.recent for user, profile in profiles.items()}
        return BatchFold(
            self._rules.dedupe, profiles, self._rules.closed_ids.take(recents, lambda keys: _chunks(database, list(keys)))
        )

    def _dead_letter(self, record: Source, why: Rejection) -> None:
        where = {"topic": self._source, "partition": str(record.partition), "offset": str(record.offset), "message": why.message}
        headers: Headers = [(f"__dlq.errors.{name}", text) for name, text in where.items()]
        headers += [("dlq.stage", why.stage), ("dlq.reason", why.reason.value), ("dlq.disposition", why.disposition)]
        to = (self._dead_letters, record.value, record.key, record.partition)
        self._producer.produce(*to, on_delivery=self._on_delivery, headers=headers)

    def _write_through(self, writes: Iterable[Writes]) -> None:
        if self._redis is not None:
            pipeline = self._redis.pipeline(transaction=False)
            for changed in writes:
                for key, value in changed.items():
                    if value is not None and key.startswith(user_profiles.prefix):
                        pipeline.set(b"byhand:" + key, value)
            pipeline.execute()

    def _flush(self) -> None:
        if self._producer.flush(FLUSH_S) or self._failed:
            raise RuntimeError(f"Kafka did not take all records: {self._failed[:1] or 'timeout'}")

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(error)

    def _commit(self, asynchronous: bool) -> None:
        offsets = [TopicPartition(self._source, partition, offset) for partition, offset in self._next.items()]
        self._next.clear()
        self._committed_at = time.monotonic()
        if offsets and asynchronous:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        elif offsets:
            self._consumer.commit(offsets=offsets, asynchronous=False)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._settings.data_dir.mkdir(parents=True, exist_ok=True)
        for tp in partitions:
            self._databases[tp.partition] = Rdict(str(self._settings.data_dir / f"{tp.partition}.db"), self._options.build())
        started = time.monotonic()
        restored = self._restore([tp.partition for tp in partitions])
        for tp in partitions:
            marker = self._databases[tp.partition].get(MARKER)
            tp.offset = OFFSET_STORED if marker is None else int(marker)
        consumer.assign(partitions)
        report = {"records": restored, "seconds": round(time.monotonic() - started, 3)}
        print(msgspec.json.encode(report).decode(), flush=True)

    def _restore(self, partitions: Iterable[int]) -> int:
        """Read the whole changelog of ``partitions`` into their databases; the number of records."""
        reader, total, left = Consumer(self._kafka), 0, {}
        for partition in partitions:
            begin, end = reader.get_watermark_offsets(TopicPartition(self._changelog, partition), timeout=FLUSH_S)
            if end > begin:
                left[partition], total = end, total + end - begin
        reader.assign([TopicPartition(self._changelog, partition, 0) for partition in left])
        while left:
            records: dict[int, list[Source]] = defaultdict(list)
            for message in reader.consume(RESTORE_BATCH, 0.1):
                record = _source(message)
                records[record.partition].append(record)
            for partition, found in records.items():
                self._databases[partition].write(_write_batch((record.key or b"", record.value) for record in found))
                if found[-1].offset + 1 >= left[partition]:
                    del left[partition]
        reader.close()
        return total

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(asynchronous=False)
        for tp in partitions:
            self._databases.pop(tp.partition).close()


def _source(message: Message) -> Source:
    if (error := message.error()) is not None:
        raise KafkaException(error)
    return Source(message.partition() or 0, message.offset() or 0, message.key(), message.value(), message.timestamp()[1])


def _chunks(database: Rdict, keys: list[str]) -> Mapping[str, Chunk]:
    found = _get_many(database, [seen_ids.raw_key(key) for key in keys])
    return {key: seen_ids.decode(raw) for key, raw in zip(keys, found, strict=True) if raw is not None}


def _get_many(database: Rdict, keys: Sequence[bytes]) -> list[bytes | None]:
    values: list[bytes | None] = database.get(list(keys)) or []
    return values


def _write_batch(writes: Iterable[tuple[bytes, bytes | None]]) -> WriteBatch:
    batch = WriteBatch(raw_mode=True)
    for key, value in writes:
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    return batch


if __name__ == "__main__":
    HandLoop(load_settings(), sys.argv[1]).run()

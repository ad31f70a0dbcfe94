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
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import OFFSET_STORED, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from redis import Redis
from rocksdict import Rdict, WriteBatch

from agents.process_interactions import Rules
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from app.domain.fold import BatchFold
from app.domain.validation import classify
from app.engine.store import StoreOptions
from app.settings import Settings, load_settings
from app.topics import changelog_of, dead_letters_of
from tables.seen_ids import seen_ids
from tables.user_profiles import user_profiles

AGENT = "byhand"
SOURCE = "interactions-byhand"
ENRICHED = "interactions-enriched-byhand"
BATCH = 1000
FLUSH_S = 30.0
COMMIT_S = 0.3
RESTORE_BATCH = 10_000
#: Engine keys begin with NUL, so no user key can be this one.
MARKER = b"\0next"

Writes = dict[bytes, bytes | None]


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
        base = {"bootstrap.servers": settings.kafka_bootstrap}
        self._producer = Producer(
            base | {"enable.idempotence": True, "acks": "all", "linger.ms": 5, "delivery.report.only.error": True, "batch.size": 1_000_000}
        )
        self._consumer = Consumer(
            base
            | {"group.id": settings.app_id, "enable.auto.commit": False, "auto.offset.reset": "earliest", "session.timeout.ms": 10_000}
            | {"fetch.wait.max.ms": settings.fetch_max_wait_ms, "fetch.queue.backoff.ms": 10, "queued.max.messages.kbytes": 16_384}
        )
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
            if (error := message.error()) is not None:
                raise KafkaException(error)
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

    def _compute(self, partition: int, records: list[Source]) -> Writes:
        """Run the domain over records of one partition and produce what it says; returns the changed state."""
        valid = []
        for record in records:
            result = classify(record, self._rules.limits)
            if isinstance(result, Rejection):
                self._dead_letter(record, result)
            else:
                valid.append((record, result))
        users = list({interaction.user_key for _, interaction in valid})
        database = self._databases[partition]
        found = zip(users, database.get([user_profiles.raw_key(user) for user in users]), strict=True)
        profiles = {user: user_profiles.decode(raw) for user, raw in found if raw is not None}
        recents = {user: profile.recent for user, profile in profiles.items()}
        closed = self._rules.closed_ids.take(recents, lambda keys: self._chunks(database, list(keys)))
        fold = BatchFold(self._rules.dedupe, profiles, closed)
        now = b"%d" % (time.time_ns() // 1_000_000)
        produce, prefix, failed = self._producer.produce, f"{self._source}:{partition}:", self._on_delivery
        for record, interaction in valid:
            sequence = fold.add(interaction, record.timestamp)
            if sequence is None:
                continue
            value = enrich(record.value or b"", sequence, record.timestamp, interaction.event.has_veltrix)
            headers: list[tuple[str, str | bytes | None]] = [("veltrix-source", f"{prefix}{record.offset}:0"), ("processed_at", now)]
            produce(ENRICHED, value, record.key, partition, on_delivery=failed, timestamp=record.timestamp, headers=headers)
        fold.give_back(self._rules.closed_ids)
        writes: Writes = {user_profiles.raw_key(user): user_profiles.encode(profile) for user, profile in fold.profiles.items()}
        for key, chunk in fold.chunks.items():
            writes[seen_ids.raw_key(key)] = None if chunk is None else seen_ids.encode(chunk)
        return writes

    def _chunks(self, database: Rdict, keys: list[str]) -> dict[str, Any]:
        raw = database.get([seen_ids.raw_key(key) for key in keys])
        return {key: seen_ids.decode(value) for key, value in zip(keys, raw, strict=True) if value is not None}

    def _dead_letter(self, record: Source, rejection: Rejection) -> None:
        headers: list[tuple[str, str | bytes | None]] = [
            ("__dlq.errors.topic", self._source),
            ("__dlq.errors.partition", str(record.partition)),
            ("__dlq.errors.offset", str(record.offset)),
            ("__dlq.errors.message", rejection.message),
            ("dlq.stage", rejection.stage),
            ("dlq.reason", rejection.reason.value),
            ("dlq.disposition", rejection.disposition),
        ]
        self._producer.produce(self._dead_letters, record.value, record.key, record.partition, on_delivery=self._on_delivery, headers=headers)

    def _write_through(self, writes: Iterable[Writes]) -> None:
        if self._redis is None:
            return
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
        if asynchronous:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        elif offsets:
            self._consumer.commit(offsets=offsets, asynchronous=False)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        started, restored = time.monotonic(), 0
        for tp in partitions:
            path = self._settings.data_dir / f"{tp.partition}.db"
            path.parent.mkdir(parents=True, exist_ok=True)
            self._databases[tp.partition] = Rdict(str(path), self._options.build())
            restored += self._restore(tp.partition)
            marker = self._databases[tp.partition].get(MARKER)
            tp.offset = OFFSET_STORED if marker is None else int(marker)
        consumer.assign(partitions)
        report = {"records": restored, "seconds": round(time.monotonic() - started, 3)}
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        sys.stdout.flush()

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._commit(asynchronous=False)
        for tp in partitions:
            self._databases.pop(tp.partition).close()

    def _restore(self, partition: int) -> int:
        """Read the whole changelog of a partition into its database."""
        reader = Consumer({"bootstrap.servers": self._settings.kafka_bootstrap, "group.id": "byhand-restore", "enable.auto.commit": False})
        try:
            begin, end = reader.get_watermark_offsets(TopicPartition(self._changelog, partition), timeout=FLUSH_S)
            reader.assign([TopicPartition(self._changelog, partition, begin)])
            offset = begin
            while offset < end:
                messages = reader.consume(min(RESTORE_BATCH, end - offset), FLUSH_S)
                self._databases[partition].write(_write_batch((m.key() or b"", m.value()) for m in messages))
                offset = (messages[-1].offset() or 0) + 1
            return end - begin
        finally:
            reader.close()


def _source(message: Message) -> Source:
    return Source(message.partition() or 0, message.offset() or 0, message.key(), message.value(), message.timestamp()[1])


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

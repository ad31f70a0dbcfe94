"""Counting what the main job did, by a client and a reference that share nothing with the worker.

The truth is what was sent: ``Click.kind`` says what each record is. Everything else is read back from Kafka.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from app.cli.clickstream import BAD_KINDS, Click, Clickstream
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, dead_letters_of
from deploy.local.worker_process import WorkerProcess

SOURCE_AGENT = "process_interactions"
OUTCOMES = ("consumed", "emitted", "duplicates", "dead_lettered", "retried", "dropped")
WAIT_S = 90.0


@dataclass(slots=True)
class Sent:
    """What was sent and acknowledged."""

    clicks: list[Click] = field(default_factory=list)

    @property
    def valid(self) -> dict[str, bytes]:
        """messageId to bytes of every valid event (each once, however often it was sent)."""
        return {json.loads(click.value)["messageId"]: click.value for click in self.clicks if click.kind == "valid"}

    @property
    def bad(self) -> Counter[tuple[str, bytes]]:
        """(reason, bytes) of every bad record."""
        return Counter((BAD_KINDS[click.kind].value, click.value) for click in self.clicks if click.kind in BAD_KINDS)  # type: ignore[index]


def clicks(count: int, tag: str, *, users: int = 500) -> list[Click]:
    """Realistic events of the last ``count`` milliseconds."""
    return list(Clickstream(7, users, 200, tag).events(count, time.time_ns() // 1_000_000 - count))


def send(settings: Settings, events: Sequence[Click], sent: Sent, *, rate: float = 0.0) -> None:
    """Produce with murmur2, as every keyed producer must; ``rate`` per second, 0: as fast as possible."""
    failed: list[object] = []
    options = {"bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random", "linger.ms": 5, "acks": "all"}
    producer = Producer({**options, "queue.buffering.max.messages": 1_000_000})
    start = time.monotonic()
    for number, click in enumerate(events):
        if rate and (ahead := start + number / rate - time.monotonic()) > 0:
            producer.poll(0)
            time.sleep(ahead)
        producer.produce(
            INTERACTIONS, key=click.key, value=click.value, on_delivery=lambda err, _: failed.append(err) if err else None
        )
    producer.flush()
    assert not failed
    sent.clicks += events


def read(settings: Settings, topic: str) -> list[Message]:
    """Every record of ``topic`` from the beginning to its end."""
    options = {"bootstrap.servers": settings.kafka_bootstrap, "group.id": "truth", "enable.auto.commit": False}
    consumer = Consumer({**options, "enable.partition.eof": True, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(settings.partitions)])
    messages: list[Message] = []
    ended: set[int | None] = set()
    while len(ended) < settings.partitions:
        for message in consumer.consume(10_000, 0.1):
            if message.error():
                ended.add(message.partition())
            else:
                messages.append(message)
    consumer.close()
    return messages


def ledger(worker: WorkerProcess) -> dict[str, int]:
    """The worker's ledger of the source, summed over its lanes; the residue is that of all lanes, the other agents' too."""
    rows = lanes(worker, None)
    mine = [row for row in rows if row["agent"] == SOURCE_AGENT]
    total = {name: sum(row[name] for row in mine) for name in OUTCOMES}
    return total | {"residue": sum(row["residue"] for row in rows)}


def lanes(worker: WorkerProcess, agent: str | None = SOURCE_AGENT) -> list[dict[str, Any]]:
    """The ledger of each lane of one agent of the worker; None: of all."""
    status, body = worker.get("/api/v1/ledger")
    assert status == 200, body
    return [row for row in json.loads(body)["lanes"] if agent in (None, row["agent"])]


def wait_consumed(workers: Iterable[WorkerProcess], count: int, timeout_s: float = WAIT_S) -> None:
    """Wait until the ledgers of ``workers`` say that ``count`` records are done."""
    deadline = time.monotonic() + timeout_s
    consumed = -1
    while time.monotonic() < deadline:
        consumed = sum(ledger(worker)["consumed"] for worker in workers)
        if consumed >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"{consumed} of {count} records consumed after {timeout_s} s")


@dataclass(slots=True)
class Outcome:
    """What came out. ``repeated`` counts outputs of the same source record beyond the first."""

    values: dict[str, bytes]
    repeated: int
    sequences: dict[bytes, list[int]]

    @classmethod
    def of(cls, settings: Settings) -> Outcome:
        """Read the enriched topic; a repetition that differs in one byte fails at once."""
        by_source: dict[bytes, bytes] = {}
        values: dict[str, bytes] = {}
        sequences: dict[bytes, list[int]] = defaultdict(list)
        repeated = 0
        for message in read(settings, ENRICHED):
            source, key, value = header(message, "veltrix-source"), message.key() or b"", message.value() or b""
            if source in by_source:
                assert by_source[source] == value
                repeated += 1
                continue
            by_source[source] = value
            event = json.loads(value)
            assert event["messageId"] not in values, "a duplicate passed"
            values[event["messageId"]] = value
            sequences[key].append(event["veltrix"]["sequence"])
        return cls(values, repeated, dict(sequences))


def assert_exact(settings: Settings, sent: Sent) -> Outcome:
    """Every valid event came out, no other did, users are numbered 1..n, every bad record is a dead letter."""
    outcome = Outcome.of(settings)
    expected = sent.valid
    assert outcome.values.keys() == expected.keys()
    for message_id, value in expected.items():
        assert outcome.values[message_id].startswith(value[:-1])
    for numbers in outcome.sequences.values():
        assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert dead_letters(settings) == set(sent.bad)
    return outcome


def dead_letters(settings: Settings) -> set[tuple[str, bytes]]:
    """(reason, original bytes) of every dead letter."""
    records = read(settings, dead_letters_of(settings.app_id, INTERACTIONS))
    return {(header(record, "dlq.reason").decode(), record.value() or b"") for record in records}


def header(message: Message, name: str) -> bytes:
    """The first header of that name; a missing one fails the test."""
    headers = cast("list[tuple[str, bytes]]", message.headers())
    return next(value for key, value in headers if key == name)


def lookup(worker: WorkerProcess, user: str) -> dict[str, Any]:
    """What the lookup API says of a user (``u:42``)."""
    status, body = worker.get(f"/api/v1/lookups/users/{user}")
    assert status == 200, (status, body)
    return dict(json.loads(body))

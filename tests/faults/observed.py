"""What came out of a run, read from Kafka, from a worker's disk and from Redis: never from the product's own metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import quote

import msgspec
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition
from rocksdict import AccessType, Options, Rdict

from app.settings import Settings
from app.topics import AGENTS, ENRICHED, INTERACTIONS, changelog_of, dead_letters_of
from deploy.local.worker_process import WorkerProcess
from tests.faults.reference import SourceRecord
from tests.integration import truth as integration

AGENT = next(iter(AGENTS))
ENGINE_PREFIX, PROFILE_PREFIX = b"\0", b"p"
MARKER_KEY = b"\0veltrix/marker"
SEQUENCE_FIELD, COUNTS_FIELD = 4, 5
BROKER_TIMEOUT_S = 60.0
REDIS_TIMEOUT_S = 30.0

State = dict[bytes, bytes]


@dataclass(slots=True)
class Marker:
    """The ledger of one partition, as its newest marker record in the changelog states it."""

    next_offset: int
    consumed: int
    outcomes: int


@dataclass(slots=True)
class Seen:
    """Everything a run left behind. Lists are in log order; identities as in ``Truth``."""

    outputs: list[tuple[str, bytes, bytes]] = field(default_factory=list)
    """identity, key, value"""
    dead_letters: list[tuple[str, str, bytes]] = field(default_factory=list)
    """identity, reason, original bytes"""
    changelog: dict[int, State] = field(default_factory=dict)
    """partition -> compacted view"""
    disks: dict[int, State] = field(default_factory=dict)
    """partition -> RocksDB of its last owner, the engine's own keys left out; only what was read"""
    lookups: dict[str, int] = field(default_factory=dict)
    """state key -> sequence number that Redis served"""
    ledger: dict[str, int] = field(default_factory=dict)
    """sum of the running workers' ledgers"""


def read_outputs(settings: Settings) -> list[tuple[str, bytes, bytes]]:
    """The enriched topic for a read_committed reader: identity of the source record, key, value."""
    return [(_identity(record), record.key() or b"", record.value() or b"") for record in integration.read(settings, ENRICHED)]


def read_dead_letters(settings: Settings) -> list[tuple[str, str, bytes]]:
    """The dead letter queue for a read_committed reader: identity of the source record, reason, original bytes."""
    letters = integration.read(settings, dead_letters_of(settings.app_id, INTERACTIONS))
    header = integration.header
    return [(header(one, "dlq.id").decode(), header(one, "dlq.reason").decode(), one.value() or b"") for one in letters]


def read_changelog(settings: Settings) -> dict[int, State]:
    """The compacted view of each changelog partition, as a restoring worker must see it."""
    state: dict[int, State] = {partition: {} for partition in range(settings.partitions)}
    for record in integration.read(settings, changelog_of(settings.app_id, AGENT)):
        key, value, part = record.key() or b"", record.value(), state[cast("int", record.partition())]
        if value is None:
            part.pop(key, None)
        else:
            part[key] = value
    return state


def read_disk(run_dir: Path, partition: int) -> State:
    """All pairs of a stopped worker's RocksDB but the engine's own."""
    path = run_dir / "data" / "tables" / f"{AGENT}-{partition}.db"
    with_raw_keys = Options(raw_mode=True)
    database = Rdict(str(path), with_raw_keys, access_type=AccessType.read_only())
    try:
        pairs = cast("Iterable[tuple[bytes, bytes]]", database.items())
        return {key: value for key, value in pairs if not key.startswith(ENGINE_PREFIX)}
    finally:
        database.close()


def read_lookups(worker: WorkerProcess, expected: Mapping[str, int]) -> dict[str, int]:
    """state key -> sequence number in Redis; waits up to 30 s in all for Redis to hold what is expected."""
    deadline = time.monotonic() + REDIS_TIMEOUT_S
    found: dict[str, int] = {}
    for key, sequence in expected.items():
        found[key] = _from_redis(worker, key)
        while found[key] != sequence and time.monotonic() < deadline:
            time.sleep(0.1)
            found[key] = _from_redis(worker, key)
    return found


def _from_redis(worker: WorkerProcess, key: str) -> int:
    """-1 when Redis does not have it."""
    status, body = worker.get(f"/api/v1/lookups/users/{quote(key, safe=':')}")
    if status != 200:
        return -1
    answer = json.loads(body)
    return int(answer["value"]["sequence"]) if answer["freshness"]["source"] == "redis" else -1


def profiles_of(state: State) -> dict[str, tuple[int, int]]:
    """state key -> (sequence number, sum of the counts per event name) of every profile in a table."""
    found = {}
    for key, value in state.items():
        if key.startswith(PROFILE_PREFIX):
            profile = msgspec.msgpack.decode(value, strict=False)
            found[key[len(PROFILE_PREFIX) :].decode()] = (profile[SEQUENCE_FIELD], sum(profile[COUNTS_FIELD].values()))
    return found


def marker_of(state: State) -> Marker | None:
    """The marker in a table; None before the first unit."""
    raw = state.get(MARKER_KEY)
    if raw is None:
        return None
    offsets, _, consumed, *outcomes = msgspec.msgpack.decode(raw)[:8]
    return Marker(offsets[INTERACTIONS], consumed, sum(outcomes))


def ends_of(settings: Settings, topic: str) -> dict[int, int]:
    """partition -> end offset."""

    def ask(client: Consumer) -> dict[int, int]:
        return {n: client.get_watermark_offsets(TopicPartition(topic, n), 15)[1] for n in range(settings.partitions)}

    return _patiently(settings, ask)


def committed_of(settings: Settings) -> dict[int, int]:
    """partition of the source -> offset that the worker's group has committed; 0 before the first commit."""

    def ask(client: Consumer) -> dict[int, int]:
        asked = [TopicPartition(INTERACTIONS, number) for number in range(settings.partitions)]
        return {found.partition: max(0, found.offset) for found in client.committed(asked, 15)}

    return _patiently(settings, ask)


def wait_group_answers(settings: Settings) -> None:
    """Wait until the group's coordinator answers again: a broker that has just started has not loaded its groups yet."""
    committed_of(settings)


def _patiently(settings: Settings, ask: Callable[[Consumer], dict[int, int]]) -> dict[int, int]:
    """Ask again while a broker that has just come back, or stood still, has no answer yet."""
    deadline = time.monotonic() + BROKER_TIMEOUT_S
    while True:
        try:
            with _Client(settings) as client:
                return ask(client)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


class _Client:
    """A consumer under the workers' group id that never joins the group."""

    def __init__(self, settings: Settings) -> None:
        self._consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": settings.app_id})

    def __enter__(self) -> Consumer:
        return self._consumer

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def read_source(settings: Settings) -> list[SourceRecord]:
    """Every record of the source topic, from offset 0."""
    return [
        SourceRecord(INTERACTIONS, cast("int", one.partition()), cast("int", one.offset()), one.value() or b"", one.timestamp()[1])
        for one in integration.read(settings, INTERACTIONS)
    ]


def _identity(record: Message) -> str:
    topic, partition, offset, index = integration.header(record, "veltrix-source").decode().split(":")
    assert index == "0", "this agent emits one output a record"
    return f"{topic}:{partition}:{offset}"

"""Recovery from changelogs that are not what a fresh one looks like: compacted, emptied, ending in offsets without records."""

from __future__ import annotations

import json
import time
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it names them in no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from app.settings import Settings
from app.topics import changelog_of
from deploy.local.kafka import LocalKafka
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

WAIT_S = 60.0


def test_a_compacted_changelog_restores_the_same_state(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka", config={"log.cleaner.backoff.ms": "200"}) as kafka:
        settings, sent = topics(kafka_bootstrap=kafka.bootstrap), truth.Sent()
        _configure(settings, {"segment.ms": "300", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0"})
        first = worker(settings)
        events = truth.clicks(12_000, "compact", users=50)
        truth.send(settings, events[:8_000], sent, rate=2_000)  # spread over several segments
        truth.wait_consumed([first], 8_000)
        assert first.terminate() == 0
        _wait_compacted(settings)

        second = worker(settings, run_dir=tmp_path / "empty")
        truth.send(settings, events[8_000:], sent)
        truth.wait_consumed([second], 12_000)

        truth.assert_exact(settings, sent)


def test_an_emptied_changelog_leaves_the_state_on_disk_in_force(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(), truth.Sent()
    first = worker(settings, run_dir=tmp_path / "disk")
    events = truth.clicks(6_000, "empty")
    truth.send(settings, events[:4_000], sent)
    truth.wait_consumed([first], 4_000)
    assert first.terminate() == 0
    _empty(settings)

    second = worker(settings, run_dir=tmp_path / "disk")
    truth.send(settings, events[4_000:], sent)
    truth.wait_consumed([second], 6_000)

    truth.assert_exact(settings, sent)


def test_a_changelog_that_ends_in_an_offset_without_a_record_restores_to_its_end(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    first = worker(settings)
    events = truth.clicks(6_000, "marker")
    truth.send(settings, events[:4_000], sent)
    truth.wait_consumed([first], 4_000)
    assert first.terminate() == 0
    _append_transaction_markers(settings)

    second = worker(settings, run_dir=tmp_path / "empty")
    truth.send(settings, events[4_000:], sent)
    truth.wait_consumed([second], 6_000)

    truth.assert_exact(settings, sent)
    assert _ready(second)["recovery"]["restored"] > 0


def _ready(one: WorkerProcess) -> dict[str, dict[str, int]]:
    return dict(json.loads(one.get("/readyz")[1]))


def _changelog(settings: Settings) -> str:
    return changelog_of(settings.app_id, "process_interactions")


def _configure(settings: Settings, values: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    resource = ConfigResource(ResourceType.TOPIC, _changelog(settings), incremental_configs=entries)
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result()


def _empty(settings: Settings) -> None:
    _configure(settings, {"cleanup.policy": "compact,delete"})  # Kafka deletes no records of a compact-only topic
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})
    partitions = [TopicPartition(_changelog(settings), number, -1) for number in range(settings.partitions)]
    for deleted in admin.delete_records(partitions).values():
        deleted.result()
    _configure(settings, {"cleanup.policy": "compact"})


def _append_transaction_markers(settings: Settings) -> None:
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": "markers"})
    producer.init_transactions()
    producer.begin_transaction()
    for number in range(settings.partitions):
        producer.produce(_changelog(settings), key=b"x-not-ours", value=None, partition=number)
    producer.commit_transaction()


def _wait_compacted(settings: Settings) -> None:
    """Until most offsets of the changelog have no record any more."""
    deadline = time.monotonic() + WAIT_S
    while True:
        records = len(truth.read(settings, _changelog(settings)))
        offsets = sum(_end(settings, number) for number in range(settings.partitions))
        if records < offsets / 2:
            return
        assert time.monotonic() < deadline, f"{records} records in {offsets} offsets"
        time.sleep(1)


def _end(settings: Settings, partition: int) -> int:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "ends"})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(_changelog(settings), partition))[1])
    finally:
        consumer.close()

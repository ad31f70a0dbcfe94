"""A large table on an empty disk: restored in batches, whole, and far from the speed of one record at a time."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from app.engine.marker import MARKER_KEY, Marker, encode_marker
from app.engine.store import PartitionStore, StoreOptions, partition_path
from app.settings import Settings
from app.topics import INTERACTIONS, changelog_of
from tests.integration.conftest import Limit, MakeTopics, StartWorker

log = logging.getLogger(__name__)

AGENT = "process_interactions"
#: The promise: 1,000,000 keys on an empty disk within 10 s of the process's start, on a machine with a free core.
PROMISED_KEYS, PROMISED_S = 1_000_000, 10.0
#: Keys between two markers.
UNIT = 500
#: Faust's own recovery; batches restore more than 200,000 on an idle core.
FAUST_RECORDS_PER_SECOND = 3_700
RECORDS_PER_SECOND = 20_000


@pytest.mark.parametrize("keys", [200_000, pytest.param(PROMISED_KEYS, marks=pytest.mark.faults)])
def test_a_large_table_is_restored_whole_and_in_batches(
    keys: int, topics: MakeTopics, worker: StartWorker, tmp_path: Path, limit: Limit
) -> None:
    settings = topics(partitions=4, redis_url="")  # the values are no profiles
    records, allowed_s = _write(settings, keys), limit(PROMISED_S, broken_s=keys / FAUST_RECORDS_PER_SECOND)

    started = time.monotonic()
    one = worker(settings, run_dir=tmp_path / "empty")
    seconds = time.monotonic() - started

    log.info("measured: %d keys, ready %.1f s after the process's start (allowed %.1f s)", keys, seconds, allowed_s)
    assert seconds <= allowed_s
    recovery = json.loads(one.get("/readyz")[1])["recovery"]
    assert (recovery["restored"], recovery["remaining"]) == (records, 0)
    assert recovery["records_per_second"] > RECORDS_PER_SECOND
    assert one.terminate() == 0
    assert _read_back(settings, keys, tmp_path / "empty" / "data") == keys


def _key(number: int) -> bytes:
    return b"u:user-%06d" % number


def _value(number: int) -> bytes:
    return b"%06d" % number * 50


def _write(settings: Settings, keys: int) -> int:
    """A changelog as units leave it; how many records it has."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "linger.ms": 20, "queue.buffering.max.messages": 1_000_000})
    topic, marker = changelog_of(settings.app_id, AGENT), encode_marker(Marker({INTERACTIONS: 0}))
    per_partition = keys // settings.partitions
    for partition in range(settings.partitions):
        for number in range(per_partition):
            mine = number * settings.partitions + partition
            producer.produce(topic, key=_key(mine), value=_value(mine), partition=partition)
            if number % UNIT == UNIT - 1:
                producer.produce(topic, key=MARKER_KEY, value=marker, partition=partition)
        producer.flush()
    return keys + keys // UNIT


def _read_back(settings: Settings, keys: int, data_dir: Path) -> int:
    """How many keys are on disk with the right value."""
    right = 0
    for partition in range(settings.partitions):
        store = PartitionStore(partition_path(data_dir, AGENT, partition), StoreOptions.of(settings))
        numbers = range(partition, keys, settings.partitions)
        values = store.get_many([_key(number) for number in numbers])
        right += sum(value == _value(number) for number, value in zip(numbers, values, strict=True))
        store.close()
    return right

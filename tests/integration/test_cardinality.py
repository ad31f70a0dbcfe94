"""However many users there are, there are as many series as before."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime

import pytest
from confluent_kafka import Producer

from app.settings import Settings
from app.topics import INTERACTIONS
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

FIRST = 20_000


def send_users(settings: Settings, users: range) -> None:
    """One event of each."""
    options = {"bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random", "linger.ms": 20, "acks": "all"}
    producer = Producer({**options, "queue.buffering.max.messages": 2 * len(users)})
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for number in users:
        event = {
            "type": "track", "event": "Product Viewed", "userId": f"user-{number}", "messageId": f"message-{number}", "timestamp": now,
            "properties": {"product_id": f"product-{number}"},
        }  # fmt: skip
        producer.produce(INTERACTIONS, key=f"user-{number}", value=json.dumps(event))
        if number % 1000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0


def series(text: str) -> set[str]:
    """Name and labels of every sample."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if line and not line.startswith("#")}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("users", [100_000, pytest.param(1_000_000, marks=pytest.mark.faults)])
def test_the_number_of_series_does_not_depend_on_the_number_of_users_and_items(
    users: int, topics: MakeTopics, worker: StartWorker
) -> None:
    settings = topics()
    one = worker(settings)
    send_users(settings, range(FIRST))
    truth.wait_consumed([one], FIRST)
    time.sleep(3)  # numbers that are taken once a second
    before = series(one.get("/metrics")[1].decode())

    send_users(settings, range(FIRST, users))
    truth.wait_consumed([one], users, timeout_s=300)
    after = series(one.get("/metrics")[1].decode())

    assert before == after
    assert f"user-{users - 1}" not in "".join(after)
    assert sum(lane["emitted"] for lane in truth.lanes(one)) == users

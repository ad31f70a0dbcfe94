"""Reference data in the main job, on a real Kafka, Redis, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from sqlalchemy import text

from app.cli.seed import seed
from app.enrichment.changes import change_key, change_value
from app.enrichment.store import make_engine
from app.settings import Settings
from app.topics import ENRICHED, REFERENCE_CHANGES
from deploy.local.postgres import LocalPostgres
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import WorkerProcess
from tests.enrichment.conftest import own_postgres
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

USERS, ITEMS = 500, 200
#: Rows stay young for the length of a test unless it says otherwise.
ON: dict[str, Any] = {"enrichment_enabled": True, "sessions_enabled": False, "windows_enabled": False}


@pytest.fixture
def postgres() -> Iterator[LocalPostgres]:
    """One of this test's own: it is stopped and started."""
    with own_postgres() as server:
        yield server


def filled(settings: Settings) -> Settings:
    asyncio.run(seed(settings, USERS, ITEMS))
    return settings


def references(settings: Settings) -> dict[str, Any]:
    """messageId -> what was joined, of every enriched event."""
    values = [json.loads(record.value() or b"") for record in truth.read(settings, ENRICHED)]
    return {value["messageId"]: value["veltrix"].get("reference") for value in values}


def until(reached: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def assert_counted(settings: Settings, one: WorkerProcess, sent: truth.Sent) -> dict[str, Any]:
    """Every valid event once, numbered without a hole; returns what was joined."""
    truth.wait_consumed([one], len(sent.clicks))
    outcome = truth.Outcome.of(settings)
    assert set(outcome.values) == set(sent.valid)
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in outcome.sequences.values())
    return references(settings)


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_every_event_gets_the_rows_of_its_user_and_items(
    database: str, topics: MakeTopics, worker: StartWorker, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'reference.sqlite'}" if database == "sqlite" else request.getfixturevalue("postgres").url
    settings, sent = filled(topics(reference_url=url, **ON)), truth.Sent()
    one = worker(settings)
    truth.send(settings, truth.clicks(3_000, "join"), sent)
    joined = assert_counted(settings, one, sent)
    for message_id, raw in sent.valid.items():
        event, reference = json.loads(raw), joined[message_id] or {}
        if event.get("userId"):
            rank = int(event["userId"].removeprefix("user-"))
            assert reference["users"]["row"]["plan"] == ("plus" if rank % 5 == 0 else "basic")
        product = (event.get("properties") or {}).get("product_id")
        if product:
            row = reference["items"][product]["row"]
            assert row["category"] == event["properties"].get("category", row["category"])
    assert any(reference and "items" in reference for reference in joined.values())


def test_a_changed_row_is_seen_within_a_second_and_by_hand_at_once(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings = filled(topics(reference_url=f"sqlite:///{tmp_path / 'reference.sqlite'}", **ON))
    one = worker(settings)
    clicks = [click for click in truth.clicks(4_000, "change") if click.kind == "valid" and click.key.startswith(b"user-")]
    event = clicks[0]
    user = json.loads(event.value)["userId"]

    def plan(number: int) -> str:
        """What the user's n-th event is joined with."""
        value = json.dumps(json.loads(event.value) | {"messageId": f"again-{number}"}).encode()
        truth.send(settings, [event._replace(value=value)], truth.Sent())
        until(lambda: f"again-{number}" in references(settings), "the event did not come out")
        return str(references(settings)[f"again-{number}"]["users"]["row"]["plan"])

    first = plan(0)
    _update(settings, user, "gold")
    assert plan(1) == first, "cached"
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random"})
    producer.produce(REFERENCE_CHANGES, key=change_key("users", user), value=change_value("users", user))
    producer.produce(REFERENCE_CHANGES, key=b"nonsense", value=b"{")
    producer.flush()
    time.sleep(1.0)
    assert plan(2) == "gold"
    _update(settings, user, "silver")
    status, _ = one.post("/api/v1/cache/invalidate", {"table": "users", "keys": [user]})
    assert status == 200
    assert plan(3) == "silver"
    assert b'veltrix_reference_changes_total{outcome="unreadable"} 1.0' in one.get("/metrics")[1]


def test_a_database_and_a_redis_that_die_under_load_cost_no_event_and_come_back_by_themselves(
    topics: MakeTopics, worker: StartWorker, postgres: LocalPostgres, own_redis: LocalRedis
) -> None:
    young: dict[str, Any] = {"reference_cached_rows": 50, "reference_timeout_ms": 300}
    settings = filled(topics(reference_url=postgres.url, redis_url=own_redis.url, **ON, **young))
    sent, one = truth.Sent(), worker(settings)
    events = truth.clicks(12_000, "die")
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 1_000})
    sender.start()
    time.sleep(2)
    postgres.stop()
    time.sleep(2)
    own_redis.stop()
    until(lambda: "reference" in json.loads(one.get("/readyz")[1]).get("degraded", []), "nobody noticed")
    behind = truth.ledger(one)["consumed"]
    time.sleep(2)
    assert truth.ledger(one)["consumed"] - behind >= 0.8 * 2 * 1_000, "throughput is held"
    own_redis.start()
    postgres.start()
    until(lambda: "reference" not in json.loads(one.get("/readyz")[1]).get("degraded", []), "it did not recover", 40)
    sender.join()
    joined = assert_counted(settings, one, sent)
    users = [reference["users"] for reference in joined.values() if reference and "users" in reference]
    assert any("unavailable" in user for user in users), "some passed with the default, and say so"
    assert "unavailable" not in users[-1]
    assert truth.ledger(one)["residue"] == 0


def test_two_workers_on_an_empty_cache_ask_once_for_each_row(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings = filled(topics(reference_url=f"sqlite:///{tmp_path / 'reference.sqlite'}", reference_queries_per_s=1000, **ON))
    workers = [worker(settings), worker(settings)]
    until(lambda: [len(truth.lanes(one)) for one in workers] == [2, 2], "partitions were not shared", 40)
    sent = truth.Sent()
    truth.send(settings, truth.clicks(10_000, "cold"), sent, rate=2_000)
    truth.wait_consumed(workers, len(sent.clicks))
    events = [json.loads(raw) for raw in sent.valid.values()]
    users = {event["userId"] for event in events if event.get("userId")}
    rows = sum(_answers(one, answer) for one in workers for answer in ("database", "absent"))
    items = {item for event in events for item in _items(event)}
    # Each user's events go to one worker. Without leases each item would cost two rows, a third more in all; a lease that a
    # busy machine waits for in vain (150 ms), or a call to Redis that it does not answer in time (50 ms), costs one row more.
    assert rows <= len(users | items) * 1.25


def test_a_wrong_declaration_stops_the_worker_with_one_line(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    file = tmp_path / "tables.toml"
    file.write_text('[[reference]]\nname = "users"\ntable = "users"\nkey = "id"\ncolumns = ["plan"]\nmatch = "visitor"\n')
    one = worker(topics(reference_file=str(file), **ON), ready=False)
    until(lambda: not one.is_running(), "it started")
    assert one.exit_status() != 0
    assert "match of users: Input should be 'user' or 'item'" in one.log.read_text()


def _update(settings: Settings, user: str, plan: str) -> None:
    async def update() -> None:
        engine = make_engine(settings)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE users SET plan = :plan WHERE user_id = :user"), {"plan": plan, "user": user})
        await engine.dispose()

    asyncio.run(update())


def _answers(one: WorkerProcess, answer: str) -> int:
    line = f'veltrix_reference_answers_total{{answer="{answer}"}} '
    lines = one.get("/metrics")[1].decode().splitlines()
    return int(float(next(row for row in lines if row.startswith(line)).removeprefix(line)))


def _items(event: dict[str, Any]) -> list[str]:
    properties = event.get("properties") or {}
    lines = [properties, *(properties.get("products") or [])]
    return [str(line["product_id"]) for line in lines if line.get("product_id")]

"""Retry tiers on a real Kafka and PostgreSQL: events wait while the database is away, survive a kill, and are given up in the end."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli.doctor_kafka import check_tiers
from app.cli.seed import seed
from app.settings import Settings
from app.topic_admin import apply_topics
from app.topics import ENRICHED, INTERACTIONS, dead_letters_of, retry_tiers
from deploy.local.postgres import LocalPostgres
from deploy.local.worker_process import ROOT, WorkerProcess
from tests.enrichment.conftest import own_postgres
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

REFUSED = 78
EVENTS = 2_000
WAIT_S = 60.0


@pytest.fixture
def postgres() -> Iterator[LocalPostgres]:
    """One of this test's own: it is stopped and started."""
    with own_postgres() as server:
        yield server


@pytest.fixture
def strict(tmp_path: Path) -> Path:
    """The default tables, whose events must not pass without their rows."""
    file = tmp_path / "tables.toml"
    file.write_text((ROOT / "app/enrichment/default.toml").read_text().replace('policy = "pass"', 'policy = "retry"'))
    return file


def settings_of(topics: MakeTopics, postgres: LocalPostgres, strict: Path, **changes: Any) -> Settings:
    """A seeded database behind a worker that waits for it. Redis is away too, so that nothing else knows the rows."""
    settings = topics(
        enrichment_enabled=True,
        reference_url=postgres.url,
        reference_file=str(strict),
        redis_url="",
        retry_delays="1s,2s",
        **changes,
    )
    asyncio.run(seed(settings.model_copy(update={"reference_file": None}), 500, 200))
    return settings


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def waiting(one: WorkerProcess) -> float:
    """Records in the tiers, as the metric says."""
    lines = one.get("/metrics")[1].decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("veltrix_retry_waiting{"))


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_events_wait_while_the_database_is_away_through_a_kill_and_come_out_whole(
    guarantee: str, topics: MakeTopics, worker: StartWorker, postgres: LocalPostgres, strict: Path, tmp_path: Path
) -> None:
    settings, sent = settings_of(topics, postgres, strict, processing_guarantee=guarantee), truth.Sent()
    one = worker(settings, run_dir=tmp_path / "one")
    postgres.stop()
    truth.send(settings, truth.clicks(EVENTS, "wait"), sent)
    truth.wait_consumed([one], EVENTS)
    until(lambda: waiting(one) > 0, "nothing waits")
    assert truth.ledger(one)["retried"] >= EVENTS * 0.5
    assert one.is_ready()
    assert one.get("/livez")[0] == 200

    one.kill9()
    one = worker(settings, run_dir=tmp_path / "one")
    again = truth.ledger(one)["retried"]
    until(lambda: truth.ledger(one)["retried"] > again, "after the kill nothing is tried again")
    postgres.start()
    until(lambda: truth.ledger(one)["emitted"] >= len(sent.valid), "not all came out")

    outcome = truth.assert_exact(settings, sent)
    if guarantee == "exactly_once":
        assert outcome.repeated == 0
    enriched = [json.loads(record.value() or b"") for record in truth.read(settings, ENRICHED)]
    assert not any("unavailable" in json.dumps(event["veltrix"].get("reference", {})) for event in enriched)
    until(lambda: waiting(one) == 0, "a tier is not empty")
    assert truth.ledger(one)["residue"] == 0
    assert one.terminate() == 0


def test_events_are_given_up_after_the_last_attempt_and_say_so(
    topics: MakeTopics, worker: StartWorker, postgres: LocalPostgres, strict: Path
) -> None:
    settings, sent = settings_of(topics, postgres, strict, retry_max_attempts=2, breaker_enabled=False), truth.Sent()
    one = worker(settings)
    postgres.stop()
    truth.send(settings, truth.clicks(EVENTS, "give-up"), sent)
    started = time.monotonic()
    until(lambda: (done := truth.ledger(one))["emitted"] + done["dead_lettered"] >= EVENTS - done["duplicates"], "some still wait")

    assert time.monotonic() - started >= 0.8 * (1 + 2), "after both delays"
    letters = truth.read(settings, dead_letters_of(settings.app_id, INTERACTIONS))
    given_up = [letter for letter in letters if truth.header(letter, "dlq.reason") == b"reference_unavailable"]
    assert Counter(truth.header(letter, "dlq.disposition") for letter in given_up) == {b"retries_exhausted": len(given_up)}
    assert {truth.header(letter, "__dlq.errors.delivery.count") for letter in given_up} == {b"3"}
    assert {truth.header(letter, "__dlq.errors.topic") for letter in given_up} == {INTERACTIONS.encode()}
    out = {json.loads(record.value() or b"")["messageId"] for record in truth.read(settings, ENRICHED)}
    parked = {json.loads(letter.value() or b"")["messageId"] for letter in given_up}
    assert out | parked == sent.valid.keys()
    assert not out & parked
    tiers = [len(truth.read(settings, tier.topic)) for tier in retry_tiers(settings, INTERACTIONS)]
    assert tiers[0] == tiers[1] >= len(given_up) > 0
    assert truth.ledger(one)["residue"] == 0


def test_a_delay_that_is_taken_away_while_events_wait_for_it_is_refused_and_loses_none(
    topics: MakeTopics, worker: StartWorker, postgres: LocalPostgres, strict: Path, tmp_path: Path
) -> None:
    settings, sent = settings_of(topics, postgres, strict), truth.Sent()
    one = worker(settings, run_dir=tmp_path / "one")
    postgres.stop()
    truth.send(settings, truth.clicks(EVENTS, "delay"), sent)
    truth.wait_consumed([one], EVENTS)
    until(lambda: waiting(one) > 0, "nothing waits")
    assert one.terminate() == 0

    other = settings.model_copy(update={"retry_delays": "3s"})
    asyncio.run(apply_topics(other))
    refused = worker(other, run_dir=tmp_path / "one", ready=False)
    assert refused.wait(60) == REFUSED
    told = refused.log.read_text(encoding="utf-8").rpartition("refused_to_start")[2]
    assert "put 1s back into VELTRIX_RETRY_DELAYS" in told or "put 2s back into VELTRIX_RETRY_DELAYS" in told
    findings = asyncio.run(check_tiers(other))
    assert {finding.status for finding in findings} == {"fail"}
    assert asyncio.run(check_tiers(settings)) == []

    postgres.start()
    one = worker(settings, run_dir=tmp_path / "one")
    until(lambda: truth.ledger(one)["emitted"] >= len(sent.valid), "not all came out")
    until(lambda: waiting(one) == 0, "a tier is not empty")
    truth.assert_exact(settings, sent)
    assert one.terminate() == 0
    moved = worker(other, run_dir=tmp_path / "one")
    assert moved.is_ready(), "once they are gone it may go"

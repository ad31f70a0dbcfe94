"""A record that is a segmentation fault each time it is processed ends as a dead letter, and the worker goes on."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from app.cli.clickstream import Click
from app.settings import Settings
from app.topics import AGENTS, INTERACTIONS, dead_letters_of
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

CRASHING = Path(__file__).parent / "crashing"
MARKER = "segmentation-fault-please"
ATTEMPTS = 2
WAIT_S = 120.0


def poison(like: Click) -> Click:
    """A valid event that the crashing worker does not survive."""
    event = json.loads(like.value) | {"messageId": "poison", "properties": {"note": MARKER}}
    return Click("valid", like.key, json.dumps(event).encode())


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_crash_loop_ends_with_the_guilty_record_parked(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarantee: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CRASHING))
    settings = topics(crash_attempts=ATTEMPTS, kafka_session_timeout_ms=6_000, processing_guarantee=guarantee)
    sent = truth.Sent()
    events = truth.clicks(4_000, "crash")
    guilty = poison(next(click for click in events[2_000:] if click.kind == "valid"))
    truth.send(settings, [*events[:2_000], guilty, *events[2_000:]], truth.Sent())
    sent.clicks += events

    deaths = 0
    while not _survives(one := worker(settings, run_dir=tmp_path / "disk", ready=False), len(events) + 1):
        assert one.exit_status() == -signal.SIGSEGV, one.log.read_text()[-4_000:]
        deaths += 1
        assert deaths <= ATTEMPTS + 1, "it loops"
    assert deaths in (ATTEMPTS, ATTEMPTS + 1), "the first one counts only if the guilty record was alone in its batch"
    outcome = truth.Outcome.of(settings)
    assert outcome.values.keys() == sent.valid.keys()
    assert all(sorted(numbers) == list(range(1, len(numbers) + 1)) for numbers in outcome.sequences.values())
    assert truth.dead_letters(settings) == {*sent.bad, ("crashed_worker", guilty.value)}
    assert truth.ledger(one)["residue"] == 0
    _assert_letter(settings)
    assert one.terminate() == 0
    assert [path.suffix for path in (tmp_path / "disk" / "data" / "crashes").iterdir()] == [".note"] * settings.partitions * len(
        AGENTS
    )


def _survives(one: WorkerProcess, count: int) -> bool:
    """Whether the worker consumed everything before it died."""
    deadline = time.monotonic() + WAIT_S
    while one.exit_status() is None:
        assert time.monotonic() < deadline, one.log.read_text()[-4_000:]
        try:
            if one.is_ready() and truth.ledger(one)["consumed"] >= count:
                return True
        except OSError:
            pass  # it died while it was asked
        time.sleep(0.2)
    return False


def _assert_letter(settings: Settings) -> None:
    records = truth.read(settings, dead_letters_of(settings.app_id, INTERACTIONS))
    letter = next(record for record in records if truth.header(record, "dlq.reason") == b"crashed_worker")
    assert truth.header(letter, "dlq.stage") == b"aggregate"
    assert truth.header(letter, "dlq.disposition") == b"parked"
    message = truth.header(letter, "__dlq.errors.message").decode()
    assert f"died {ATTEMPTS} times while agent process_interactions" in message
    assert MARKER not in message

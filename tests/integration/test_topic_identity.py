"""A changelog or source that was deleted and made again, between two runs or under a worker: refused, found by doctor, cured."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.settings import Settings
from app.topics import INTERACTIONS, all_topics, changelog_of
from deploy.local.worker_process import ROOT, WorkerProcess, clean_environment
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker, environment
from tests.integration.topic_admin import recreate

REFUSED, FATAL = 78, 70
EVENTS = truth.clicks(6_000, "identity")


def test_a_recreated_changelog_is_refused_found_by_doctor_and_cured_by_a_rebuild(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    _first_run(settings, sent, worker, tmp_path / "disk")
    _recreate(settings, changelog_of(settings.app_id, "process_interactions"))

    finding = _doctor(settings, tmp_path / "disk")
    assert "was re-created" in finding["detail"]
    assert "delete the workers' data directories" in finding["advice"]
    refused = worker(settings, run_dir=tmp_path / "disk", ready=False)
    assert refused.wait(60) == REFUSED
    assert "-changelog[" in refused.log.read_text(encoding="utf-8").rpartition("refused_to_start")[2]

    _veltrix(settings, tmp_path / "new-disk", "reset", "--to-earliest", "--yes")
    cured = worker(settings, run_dir=tmp_path / "new-disk")
    truth.send(settings, EVENTS[3_000:], sent)
    truth.wait_consumed([cured], 6_000)
    _assert_sequences(settings, cured, sent)


def test_a_recreated_source_is_refused_although_it_is_longer_than_what_was_applied(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    _first_run(settings, sent, worker, tmp_path / "disk")
    _recreate(settings, INTERACTIONS)
    sent = truth.Sent()
    truth.send(settings, EVENTS, sent)  # twice as long

    assert "veltrix reset --to-earliest" in _doctor(settings, tmp_path / "disk")["advice"]
    assert worker(settings, run_dir=tmp_path / "disk", ready=False).wait(60) == REFUSED

    time.sleep(settings.kafka_session_timeout_ms / 1000 + 2)  # it had joined: what it holds is known after recovery only
    _veltrix(settings, tmp_path / "disk", "reset", "--to-earliest", "--yes")
    _veltrix(settings, tmp_path / "disk", "doctor", "--json")
    cured = worker(settings, run_dir=tmp_path / "disk")
    truth.wait_consumed([cured], 6_000)
    _assert_sequences(settings, cured, sent)


def test_the_id_of_a_source_outlives_the_disk(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(), truth.Sent()
    _first_run(settings, sent, worker, tmp_path / "disk")
    _recreate(settings, INTERACTIONS)
    truth.send(settings, EVENTS, sent)

    assert worker(settings, run_dir=tmp_path / "new-disk", ready=False).wait(60) == REFUSED


def test_state_that_is_neither_on_disk_nor_in_the_changelog_is_not_taken_for_a_new_start(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(), truth.Sent()
    _first_run(settings, sent, worker, tmp_path / "disk")
    _recreate(settings, changelog_of(settings.app_id, "process_interactions"))

    refused = worker(settings, run_dir=tmp_path / "new-disk", ready=False)

    assert refused.wait(60) in (REFUSED, FATAL)
    assert "its table is empty" in refused.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["source", "changelog"])
def test_a_topic_recreated_under_a_worker_ends_it_and_its_next_start_refuses(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path, name: str
) -> None:
    settings, sent = topics(), truth.Sent()
    one = worker(settings, run_dir=tmp_path / "disk")
    truth.send(settings, EVENTS[:3_000], sent)
    truth.wait_consumed([one], 3_000)

    _recreate(settings, INTERACTIONS if name == "source" else changelog_of(settings.app_id, "process_interactions"))

    assert one.wait(30) == FATAL
    assert worker(settings, run_dir=tmp_path / "disk", ready=False).wait(60) == REFUSED


def _first_run(settings: Settings, sent: truth.Sent, worker: StartWorker, run_dir: Path) -> None:
    first = worker(settings, run_dir=run_dir)
    truth.send(settings, EVENTS[:3_000], sent)
    truth.wait_consumed([first], 3_000)
    assert first.terminate() == 0


def _recreate(settings: Settings, name: str) -> None:
    recreate(settings.kafka_bootstrap, [topic for topic in all_topics(settings) if topic.name == name])


def _doctor(settings: Settings, run_dir: Path) -> dict[str, str]:
    """The finding on the tables; there must be one."""
    report = json.loads(_veltrix(settings, run_dir, "doctor", "--json", status=1))
    return next(check for check in report["checks"] if check["name"] == "tables" and check["status"] == "fail")


def _veltrix(settings: Settings, run_dir: Path, *arguments: str, status: int = 0) -> str:
    own = {"VELTRIX_DATA_DIR": str(run_dir / "data"), "VELTRIX_SIDECAR_PORT": "0"}
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    variables = clean_environment() | environment(settings) | own
    done = subprocess.run(command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def _assert_sequences(settings: Settings, one: WorkerProcess, sent: truth.Sent) -> None:
    """After a rebuild older outputs are still in the topic; the ledger and each user's last number are of the new life."""
    ledger = truth.ledger(one)
    assert ledger["consumed"] == len(sent.clicks)
    assert ledger["emitted"] == len(sent.valid)

"""Exactly once on a real Kafka: a ``read_committed`` reader sees each output once, whatever happened."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker

EXACTLY_ONCE: dict[str, Any] = {"processing_guarantee": "exactly_once"}


def test_20_000_mixed_events_come_out_once(topics: MakeTopics, worker: StartWorker) -> None:
    settings, sent = topics(**EXACTLY_ONCE), truth.Sent()
    one = worker(settings)
    truth.send(settings, truth.clicks(20_000, "once", users=5_000), sent)
    truth.wait_consumed([one], 20_000)
    assert truth.assert_exact(settings, sent).repeated == 0
    assert truth.ledger(one)["residue"] == 0


def test_kill_9_repeats_no_output_on_its_disk_and_on_an_empty_one(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(**EXACTLY_ONCE), truth.Sent()
    events = truth.clicks(24_000, "kill-once")
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 2_000})
    first = worker(settings, run_dir=tmp_path / "disk")
    sender.start()
    time.sleep(2)
    first.kill9()
    second = worker(settings, run_dir=tmp_path / "disk")
    time.sleep(2)
    second.kill9()
    third = worker(settings, run_dir=tmp_path / "empty")
    sender.join()

    truth.wait_consumed([third], len(events))

    assert truth.assert_exact(settings, sent).repeated == 0
    assert truth.ledger(third)["residue"] == 0


def test_the_guarantee_can_be_changed_between_runs(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(), truth.Sent()
    events = truth.clicks(6_000, "change")
    for number, guarantee in enumerate(("exactly_once", "at_least_once", "exactly_once")):
        one = worker(settings, run_dir=tmp_path / "disk", processing_guarantee=guarantee)
        truth.send(settings, events[2_000 * number : 2_000 * (number + 1)], sent)
        truth.wait_consumed([one], 2_000 * (number + 1))
        assert one.terminate() == 0
    assert truth.assert_exact(settings, sent).repeated == 0

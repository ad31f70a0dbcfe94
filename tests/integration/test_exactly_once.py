"""Exactly once on a real Kafka: a ``read_committed`` reader sees each output once, whatever happened."""

from __future__ import annotations

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


def test_the_guarantee_can_be_changed_between_runs(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(), truth.Sent()
    events = truth.clicks(6_000, "change")
    for number, guarantee in enumerate(("exactly_once", "at_least_once", "exactly_once")):
        one = worker(settings, run_dir=tmp_path / "disk", processing_guarantee=guarantee)
        truth.send(settings, events[2_000 * number : 2_000 * (number + 1)], sent)
        truth.wait_consumed([one], 2_000 * (number + 1))
        assert one.terminate() == 0
    assert truth.assert_exact(settings, sent).repeated == 0

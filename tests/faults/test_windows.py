"""Sessions and windows while workers are killed and partitions move: every event counts once in each of its results."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults import windows
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Scenario

PROMISED = "sessions and windows exact: every event once in each result"
#: Short, so that much is closed while it runs and all of it soon after; nothing is too late for a correction.
TIMES: dict[str, Any] = {
    "watermark_delay_ms": 1_000,
    "watermark_idle_ms": 3_000,
    "session_gap_ms": 4_000,
    "session_max_length_ms": 60_000,
    "allowed_lateness_ms": 3_600_000,
}


@pytest.mark.faults_quick("exactly_once")
def test_sessions_and_windows_are_exact_while_a_worker_is_killed(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("worker killed (kill -9): sessions and windows", guarantee, PROMISED, **TIMES)
    one = run.start()
    with run.traffic(rate=500):
        for wipe in (False, True, False):
            run.pause(1.0, 3.0)
            with run.injection():
                one.kill9()
                run.restart(wipe=wipe)
    check(run)


def test_sessions_and_windows_are_exact_while_partitions_move(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("worker killed and another joins: sessions and windows", guarantee, PROMISED, **TIMES)
    one = run.start("one")
    run.start("two")
    with run.traffic(rate=500):
        run.pause(1.0, 2.0)
        with run.injection():
            one.kill9()
        with run.injection():
            run.restart("one")
        with run.injection():
            run.workers["two"].terminate()
    check(run)


def check(run: Scenario) -> None:
    """The usual count, and the results'."""
    run.stop_traffic()
    run.wait_committed()
    outputs = run.truth().outputs
    found = windows.wait_closed(run.settings, outputs)
    run.verify()
    assert found.different == [], "the same revision came twice with other results"
    assert found.counted("event_1m", "events") == windows.expected_names(outputs.values())
    assert found.counted("item_1m", "views") == windows.expected_items(outputs.values())
    assert found.users() == windows.expected_users(outputs.values())

"""Clean stops, members that come and go, and a pause so long that the group gives the partitions away (zombie)."""

from __future__ import annotations

import time

import pytest

from app.engine.guard import EXIT_FATAL
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.harness import SESSION_TIMEOUT_MS, Scenario

AFTERWARDS_S = 4.0
"""A zombie that does harm does it at once; also two heartbeats and several commits."""


@pytest.mark.faults_quick("exactly_once")
def test_a_clean_stop_repeats_nothing(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("worker stopped (SIGTERM) and restarted", guarantee, "nothing lost, state exact", may_repeat=False)
    one = run.start()
    with run.traffic():
        for _ in range(5):
            run.pause(0.3, 1.5)
            with run.injection():
                assert one.terminate() == 0
                run.restart()

    run.verify()


@pytest.mark.faults_quick("at_least_once")
def test_workers_added_and_removed_repeat_nothing(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "nothing lost, state exact: a partition is drained and committed before it is given away"
    run = scenario("workers added and removed under load (1, 3, 1)", guarantee, promised, may_repeat=False)
    run.start("one")
    with run.traffic():
        for name in ("two", "three"):
            run.pause(0.5, 2.0)
            with run.injection():
                run.start(name)
        for name in ("two", "three"):
            run.pause(0.5, 2.0)
            with run.injection():
                assert run.workers[name].terminate() == 0

    run.verify()


@pytest.mark.faults_quick("exactly_once")
def test_a_zombie_changes_nothing_after_another_took_over(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "nothing lost, state exact, no late write of the zombie counts; it rejoins, or exits with 70"
    run = scenario("worker frozen (SIGSTOP) beyond the session timeout, another takes over", guarantee, promised)
    run.start("one")
    run.start("two")
    with run.traffic():
        for name in ("one", "two"):
            run.pause(0.3, 1.5)
            with run.frozen(run.workers[name].pid), run.injection(timeout_s=30):  # the other one alone
                time.sleep(SESSION_TIMEOUT_MS / 1000)
            run.pause(0.0, 0.5)
            _expect_rejoined_or_fatal(run)

    run.verify()


def test_the_only_worker_survives_being_frozen_or_exits(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "nothing lost, state exact; the worker rejoins, or exits with 70 and its successor goes on"
    run = scenario("the only worker frozen (SIGSTOP) beyond the session timeout", guarantee, promised)
    one = run.start()
    with run.traffic():
        for _ in range(3):
            run.pause(0.3, 1.5)
            with run.injection():
                with run.frozen(one.pid):
                    time.sleep(SESSION_TIMEOUT_MS / 1000 + run.random.uniform(1.0, 5.0))
                _expect_rejoined_or_fatal(run)

    run.verify()


def _expect_rejoined_or_fatal(run: Scenario) -> None:
    """Wait a while; a worker that exited (the zombie, or the successor whose changelog it touched) must have said 70."""
    time.sleep(AFTERWARDS_S)
    for name, worker in run.workers.items():
        status = worker.exit_status()
        if status is not None:
            run.exit_statuses.append(status)
            assert status == EXIT_FATAL, worker.log
            run.restart(name)

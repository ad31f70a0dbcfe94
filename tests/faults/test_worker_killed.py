"""kill -9 of the worker at random moments under load: on the same disk, on an empty one, with another worker to take over."""

from __future__ import annotations

import pytest

from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario

PROMISED = "nothing lost, state exact"
#: 7 + 7 + 6 kills a guarantee in a full run.
ON_DISK = [pytest.param(2, marks=pytest.mark.faults_quick, id="2-kills"), pytest.param(7, id="7-kills")]


@pytest.mark.parametrize("kills", ON_DISK)
def test_a_killed_worker_goes_on_exactly_on_its_disk(scenario: MakeScenario, guarantee: Guarantee, kills: int) -> None:
    run = scenario("worker killed (kill -9), same disk", guarantee, PROMISED)
    one = run.start()
    with run.traffic():
        for _ in range(kills):
            run.pause(0.3, 2.0)
            with run.injection():
                one.kill9()
                run.restart()

    run.verify()


def test_a_killed_static_member_goes_on_exactly_and_without_waiting(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = PROMISED + "; back without waiting for the session timeout"
    run = scenario("worker killed (kill -9), same disk, static member", guarantee, promised)
    one = run.start(group_instance_id="one")
    with run.traffic():
        for _ in range(5):
            run.pause(0.3, 2.0)
            with run.injection():
                one.kill9()
                run.restart()

    run.verify()


def test_a_killed_worker_goes_on_exactly_on_an_empty_disk(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("worker killed (kill -9), disk wiped", guarantee, PROMISED)
    one = run.start()
    with run.traffic():
        for _ in range(7):
            run.pause(0.3, 2.0)
            with run.injection():
                one.kill9()
                run.restart(wipe=True)

    run.verify()


def test_another_worker_takes_over_exactly_from_a_killed_one(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("worker killed (kill -9), another takes over", guarantee, PROMISED + "; its partitions run elsewhere in 15 s")
    run.start("one")
    run.start("two")
    with run.traffic():
        for _ in range(6):
            victim = run.random.choice(sorted(run.workers))
            run.pause(0.3, 2.0)
            with run.injection(timeout_s=30):  # the other one alone
                run.workers[victim].kill9()
            run.pause(0.0, 1.0)
            run.restart(victim)

    run.verify()
    assert max(run.resume_s) <= 15.0, run.resume_s

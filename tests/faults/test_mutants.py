"""The proof that this suite can fail: a worker without one of its guards is caught, each time by the part that must catch it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.changelog import refusing_writes
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Scenario, Verdict
from tests.faults.mutants.apply import Mutant, with_mutant
from tests.faults.report import MUTANT


@pytest.fixture
def mutant_of(scenario: MakeScenario) -> Callable[[Mutant], Scenario]:
    """A scenario for a mutant. It commits often, so that a kill finds commits and marker apart."""
    return lambda mutant: scenario(
        f"{MUTANT}{mutant.replace('_', ' ')}", "at_least_once", "the checker objects", commit_interval_ms=20
    )


def killed(run: Scenario, mutant: Mutant, kills: int = 3) -> Verdict:
    """What the checker says of a mutant that is killed a few times under load."""
    one = run.start(env=with_mutant(mutant))
    with run.traffic() as traffic:
        for _ in range(kills):
            run.pause(0.5, 1.5)
            with run.injection():
                one.kill9()
                run.restart()
        traffic.wait_sent(1_000)
    return run.observe(redis=False)


def expect(verdict: Verdict, *fragments: str) -> None:
    """The mutant was caught for the reason that it must be caught for."""
    for fragment in fragments:
        assert any(fragment in sentence for sentence in verdict.violations), verdict.violations


ZOMBIE_WRITES_S = 3.0
MutantOf = Callable[[Mutant], Scenario]


def test_a_worker_that_ignores_its_marker_is_caught(mutant_of: MutantOf) -> None:
    expect(killed(mutant_of("marker_ignored"), "marker_ignored"), "the marker says")


def test_a_worker_that_commits_before_it_is_durable_is_caught(mutant_of: MutantOf) -> None:
    expect(killed(mutant_of("commits_ahead"), "commits_ahead"), "in the changelog are wrong", "the marker says")


def test_a_worker_that_writes_state_before_its_outputs_is_caught(mutant_of: MutantOf) -> None:
    expect(killed(mutant_of("state_before_outputs"), "state_before_outputs"), "outputs are missing")


def test_a_zombie_that_nobody_notices_is_caught(mutant_of: MutantOf) -> None:
    run = mutant_of("zombie_unnoticed")
    env = with_mutant("zombie_unnoticed")
    # Settled so seldom that there is always something under way that is not durable yet.
    one, two = (run.start(name, env=env, settle_interval_ms=500) for name in ("one", "two"))
    with run.traffic():
        run.pause(1.0, 2.0)
        with run.frozen(one.pid):
            run.pause(9.0, 9.5)
            run.stop_traffic()
            run.wait_committed(timeout_s=30)
        assert one.wait(ZOMBIE_WRITES_S) is None
    assert two.is_running()

    expect(run.observe(redis=False), "the marker says")


def test_batches_outside_their_transaction_are_caught(scenario: MakeScenario) -> None:
    run = scenario(f"{MUTANT}plain batches", "exactly_once", "the checker objects")
    one = run.start(env=with_mutant("plain_batches"))
    with run.traffic() as traffic:
        traffic.wait_sent(600)
        with run.injection():
            with refusing_writes(run.settings):
                status = one.wait(8)
            if status is not None:
                run.restart()

    expect(run.observe(redis=False), "outputs were repeated")


def test_at_least_once_is_not_taken_for_exactly_once(scenario: MakeScenario) -> None:
    run = scenario(f"{MUTANT}no transactions under exactly once", "exactly_once", "the checker objects")
    one = run.start(processing_guarantee="at_least_once")
    with run.traffic():
        for _ in range(3):
            run.pause(0.5, 1.5)
            with run.injection():
                one.kill9()
                run.restart()

    expect(run.observe(redis=False), "outputs were repeated")


@pytest.mark.faults_quick
def test_a_worker_that_does_not_deduplicate_is_caught(mutant_of: MutantOf) -> None:
    expect(killed(mutant_of("dedupe_off"), "dedupe_off", kills=0), "no valid unique source record", "outputs differ")

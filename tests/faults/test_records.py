"""Faults that come with the records: a flood of poison, one that kills the interpreter, and clocks that are an hour ahead."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from app.cli.clickstream import Click
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.harness import Scenario, clickstream
from tests.faults.mutants.apply import with_clock_ahead
from tests.faults.reference import CRASHING
from tests.faults.traffic import NextClick

HOUR_S = 3600
#: On a worker's path: it does not survive an event that holds ``CRASHING``.
CRASHING_WORKER = Path(__file__).parents[1] / "integration" / "crashing"
ATTEMPTS = 2


def test_a_record_that_kills_the_interpreter_is_parked_and_costs_no_other(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = f"parked after {ATTEMPTS} deaths of which it alone is guilty; no other record is lost or parked, state exact"
    run = scenario("a record that kills the interpreter each time", guarantee, promised, crash_attempts=ATTEMPTS)
    run.start(env={"PYTHONPATH": str(CRASHING_WORKER)})
    with run.traffic() as traffic:
        traffic.wait_sent(600)
        with run.injection(timeout_s=120):
            traffic.stream = guilty_then(traffic.stream)
            assert ATTEMPTS <= restart_while_it_dies(run) <= ATTEMPTS + 1

    run.verify()


def guilty_then(good: NextClick) -> NextClick:
    """One event that kills, then the others."""
    guilty: list[Click] = []

    def click_at(now_ms: int) -> Click:
        click = good(now_ms)
        if guilty or click.kind != "valid":
            return click
        event = json.loads(click.value) | {"messageId": "guilty", "properties": {"note": CRASHING.decode()}}
        guilty.append(Click("valid", click.key, json.dumps(event, separators=(",", ":")).encode()))
        return guilty[0]

    return click_at


def restart_while_it_dies(run: Scenario, patience_s: float = 20.0) -> int:
    """As a supervisor would, until the worker lives for ``patience_s``; how often it died."""
    deaths = 0
    while (status := run.workers["one"].wait(patience_s)) is not None:
        assert status == -signal.SIGSEGV, f"exit status {status}"
        deaths += 1
        assert deaths <= ATTEMPTS + 1, "it loops"
        run.restart(ready=False)
    return deaths


def test_a_flood_of_poison_is_parked_whole_and_costs_no_good_event(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "every bad record parked once with its reason and bytes, no good one lost, the worker stays up"
    fault = "poison flood (all records bad for a while)"
    # The breaker as it is after a minute, in seconds.
    run = scenario(fault, guarantee, promised, may_repeat=False, breaker_window_ms=5_000, breaker_probe_ms=500)
    one = run.start()
    with run.traffic() as traffic:
        good = traffic.stream
        for number in range(2):
            traffic.wait_sent(600)
            traffic.stream = clickstream(run.seed, f"poison-{number}", bad_share=1.0)
            with run.injection():
                traffic.wait_sent(3_000)
                traffic.stream = good

    assert one.is_running()
    run.verify()


@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_a_worker_whose_clock_is_wrong_counts_exactly(scenario: MakeScenario, guarantee: Guarantee, ahead_s: int) -> None:
    direction = "ahead" if ahead_s > 0 else "behind"
    run = scenario(
        f"the worker's clock 1 h {direction}", guarantee, "no effect: classification never reads the clock", may_repeat=False
    )
    one = run.start(env=with_clock_ahead(ahead_s))
    with run.traffic() as traffic:
        traffic.wait_sent(2_000)
        with run.injection():
            assert one.terminate() == 0
            run.restart()
        traffic.wait_sent(2_000)

    run.verify()


def test_producers_whose_clock_is_ahead_are_counted_exactly(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "no effect: limits of event time are measured against the record's timestamp"
    run = scenario("the producers' clock jumps 1 h ahead", guarantee, promised, may_repeat=False)
    run.start()
    with run.traffic() as traffic:
        traffic.wait_sent(1_000)
        with run.injection():
            # Not back again: what is then sent a second time would rightly be refused, being an hour ahead of its record.
            traffic.clock_ahead_ms = HOUR_S * 1000
            traffic.wait_sent(1_000)

    run.verify()

"""When a breaker opens, what it lets through, and how it closes. The clock is an argument; nothing here waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from app.engine.api import Failure, LaneId
from app.engine.breaker import BUCKETS, UNLIMITED, Breaker, BreakerPolicy, Breakers, LaneBreaker, OutcomeWindow, always_closed
from app.engine.status import BreakerStatus
from app.settings import Settings
from tests.engine.support import event

POLICY = BreakerPolicy(window_s=60.0, min_events=200, ratio=0.5, probe_s=30.0, probe_records=10)
LANE = LaneId("count", 0)
BAD = (event(0), Failure("validate", "bad"))


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def opened(now: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(POLICY)
    breaker.record(now, 0, 200)
    assert breaker.state == "open"
    return breaker


# -- closed -> open -----------------------------------------------------------------------------------


def test_a_closed_breaker_limits_nothing() -> None:
    assert Breaker(POLICY).allowance(0.0) == UNLIMITED


def test_it_opens_when_more_than_the_ratio_of_enough_events_died() -> None:
    breaker = Breaker(POLICY)
    breaker.record(0.0, 99, 100)
    assert breaker.allowance(0.0) == UNLIMITED, "199 events are not enough"
    breaker.record(1.0, 0, 1)
    assert (breaker.state, breaker.openings, breaker.retry_at) == ("open", 1, 31.0)


def test_exactly_the_ratio_does_not_open_it() -> None:
    breaker = Breaker(POLICY)
    breaker.record(0.0, 500, 500)
    assert breaker.state == "closed"


def test_dead_letters_that_are_older_than_the_window_are_forgotten() -> None:
    breaker = Breaker(POLICY)
    breaker.record(0.0, 0, 199)
    breaker.record(60.0, 0, 199)
    assert breaker.allowance(60.0) == UNLIMITED
    breaker.record(61.0, 0, 1)
    assert breaker.state == "open"


def test_a_disabled_breaker_never_opens() -> None:
    breaker = Breaker(replace(POLICY, enabled=False))
    breaker.record(0.0, 0, 10_000)
    assert breaker.allowance(0.0) == UNLIMITED


def test_a_good_hour_before_does_not_delay_the_opening() -> None:
    """A ratio since the start never decays: the reason why other projects removed their breaker."""
    breaker = Breaker(POLICY)
    for second in range(3600):
        breaker.record(float(second), 1000, 0)
    for second in range(3600, 3640):
        breaker.record(float(second), 0, 1000)
    assert breaker.state == "open"


# -- open -> half open -> closed or open --------------------------------------------------------------


def test_an_open_breaker_lets_nothing_through_until_its_retry_time() -> None:
    breaker = opened()
    assert breaker.allowance(29.999) == 0
    assert breaker.allowance(30.0) == 10
    assert breaker.state == "half_open"


def test_a_good_probe_closes_it_with_an_empty_window() -> None:
    breaker = opened()
    assert breaker.allowance(30.0) == 10
    breaker.record(30.0, 10, 0)
    assert breaker.allowance(30.0) == UNLIMITED
    assert breaker.status(30.0) == BreakerStatus("closed", 1)
    breaker.record(30.0, 0, 199)
    assert breaker.state == "closed", "the old dead letters must not open it again"


def test_a_bad_probe_opens_it_again() -> None:
    breaker = opened()
    breaker.allowance(30.0)
    breaker.record(31.0, 4, 6)
    assert (breaker.state, breaker.openings, breaker.retry_at) == ("open", 2, 61.0)


def test_a_probe_of_records_that_come_one_by_one_is_judged_when_it_is_complete() -> None:
    breaker = opened()
    for tried in range(10):
        assert breaker.allowance(100.0 + tried) == 10 - tried
        breaker.record(100.0 + tried, 1, 0)
    assert breaker.state == "closed"


def test_records_of_a_known_class_neither_pass_nor_fail_a_probe() -> None:
    breaker = opened()
    breaker.allowance(30.0)
    breaker.record(30.0, 0, 0)
    assert (breaker.state, breaker.allowance(30.0)) == ("half_open", 10)


def test_units_that_were_computed_with_the_one_that_opened_it_only_count() -> None:
    breaker = opened(5.0)
    breaker.record(6.0, 0, 500)
    assert (breaker.openings, breaker.retry_at) == (1, 35.0)


@pytest.mark.parametrize("now", [1.0, 30.0])
def test_an_operator_closes_it_at_any_time(now: float) -> None:
    breaker = opened()
    breaker.allowance(now)
    assert breaker.close(now).state == ("open" if now < 30 else "half_open")
    assert breaker.allowance(now) == UNLIMITED
    assert breaker.status(now).events == 0


def test_closing_a_closed_one_forgets_its_window() -> None:
    breaker = Breaker(POLICY)
    breaker.record(0.0, 0, 199)
    assert breaker.close(1.0).state == "closed"
    breaker.record(1.0, 0, 199)
    assert breaker.state == "closed"


def test_its_status_says_how_long_it_waits_and_why() -> None:
    breaker = opened()
    assert breaker.status(10.0) == BreakerStatus("open", 1, 20.0, 200, 200)
    assert breaker.status(40.0).retry_in_s == 0


# -- the window ---------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 200), st.integers(0, 9), st.integers(0, 9)), max_size=60))
def test_the_window_holds_what_is_younger_than_it_and_nothing_that_is_a_bucket_older(steps: list[tuple[float, int, int]]) -> None:
    window, now, seen = OutcomeWindow(60.0), 12345.0, list[tuple[float, int, int]]()
    for passed, good, bad in steps:
        now += passed
        window.add(now, good, bad)
        seen.append((now, good, bad))
        sure = [entry for entry in seen if now - entry[0] < 60.0 - 60.0 / BUCKETS]
        maybe = [entry for entry in seen if now - entry[0] <= 60.0]
        assert sum(good for _, good, _ in sure) <= window.good <= sum(good for _, good, _ in maybe)
        assert sum(bad for _, _, bad in sure) <= window.bad <= sum(bad for _, _, bad in maybe)


def test_a_clock_that_goes_back_loses_nothing() -> None:
    window = OutcomeWindow(60.0)
    window.add(100.0, 1, 0)
    window.add(50.0, 1, 0)
    assert window.good == 2


# -- on a lane ----------------------------------------------------------------------------------------


def test_late_and_shed_records_are_no_dead_letters_of_a_broken_source() -> None:
    clock = Clock()
    breakers = Breakers(POLICY, clock)
    lane = breakers.of(LANE)
    known = [
        (event(0), Failure("aggregate", "late", disposition="late")),
        (event(0), Failure("publish", "shed", disposition="shed")),
    ]
    lane.record(1000, known * 500)
    assert breakers.status(LANE) == BreakerStatus()
    lane.record(300, [BAD] * 200)
    assert breakers.status(LANE) == BreakerStatus("open", 1, 30.0, 300, 200)


@pytest.mark.parametrize("disposition", ["invalid", "oversize", "parked", "retries_exhausted", "transient_timeout"])
def test_every_other_disposition_counts(disposition: str) -> None:
    breakers = Breakers(POLICY, Clock())
    failure = Failure("validate", "x", disposition=disposition)  # type: ignore[arg-type]
    breakers.of(LANE).record(200, [(event(0), failure)] * 200)
    assert breakers.status(LANE).state == "open"


def test_a_lane_looks_again_each_second_and_at_the_retry_time() -> None:
    clock = Clock()
    lane = Breakers(POLICY, clock).of(LANE)
    assert lane.wait_s() is None
    lane.record(200, [BAD] * 200)
    assert (lane.allowance(), lane.wait_s()) == (0, 1.0)
    clock.now += 29.75
    assert (lane.allowance(), lane.wait_s()) == (0, 0.25)
    clock.now += 1.0
    assert lane.wait_s() == 0.0
    assert (lane.allowance(), lane.wait_s()) == (10, None)


def test_opening_and_closing_are_in_the_log() -> None:
    clock = Clock()
    breakers = Breakers(POLICY, clock)
    with structlog.testing.capture_logs() as logs:
        breakers.of(LANE).record(250, [BAD] * 200)
        breakers.close(LANE)
        breakers.close(LANE)
    assert [(line["event"], line["log_level"], line["state"]) for line in logs] == [
        ("breaker_changed", "error", "open"),
        ("breaker_changed", "info", "closed"),
    ]
    assert (logs[0]["partition"], logs[0]["events"], logs[0]["dead_letters"], logs[0]["retry_in_s"]) == (0, 250, 200, 30.0)


def test_a_breaker_outlives_its_lane() -> None:
    breakers = Breakers(POLICY, Clock())
    breakers.of(LANE).record(200, [BAD] * 200)
    assert breakers.of(LANE).allowance() == 0, "a rebalance must not let a flood through"
    assert breakers.of(LaneId("count", 1)).allowance() == UNLIMITED, "each lane has its own"


def test_a_lane_that_never_ran_has_none_to_close() -> None:
    breakers = Breakers(POLICY, Clock())
    assert breakers.status(LANE) == BreakerStatus()
    with pytest.raises(KeyError):
        breakers.close(LANE)


def test_a_lane_without_a_breaker_is_never_held() -> None:
    lane: LaneBreaker = always_closed()
    lane.record(10_000, [BAD] * 10_000)
    assert (lane.allowance(), lane.wait_s()) == (UNLIMITED, None)


def test_the_policy_is_that_of_the_settings() -> None:
    settings = Settings(
        breaker_enabled=False, breaker_window_ms=5000, breaker_min_events=7, breaker_ratio=0.25, breaker_probe_ms=1500
    )
    assert BreakerPolicy.of(settings) == BreakerPolicy(False, 5.0, 7, 0.25, 1.5)

"""Breaker and budget: when they let a call pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.enrichment.limits import Breaker, BreakerPolicy, Budget
from tests.enrichment.fakes import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(BreakerPolicy(failures=3, first_pause_ms=500, last_pause_ms=1500), clock)


def test_it_opens_at_the_last_failure_in_a_row(breaker: Breaker) -> None:
    breaker.failed()
    breaker.failed()
    breaker.answered()
    breaker.failed()
    breaker.failed()
    assert breaker.allows()
    breaker.failed()

    assert not breaker.allows()
    assert not breaker.is_closed


def test_when_the_pause_is_over_one_probes_and_its_success_closes(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.pass_s(0.499)
    assert not breaker.allows()
    clock.pass_s(0.001)
    assert [breaker.allows() for _ in range(3)] == [True, False, False]
    breaker.answered()

    assert breaker.allows()


def test_each_failed_probe_doubles_the_pause_up_to_the_last(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    pauses = []
    for _ in range(4):
        began = clock()
        while not breaker.allows():
            clock.pass_s(0.1)
        pauses.append(clock() - began)
        breaker.failed()

    assert pauses == [500, 1000, 1500, 1500]


def test_a_success_makes_the_next_pause_the_first_again(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        breaker.failed()
    breaker.answered()
    for _ in range(3):
        breaker.failed()
    clock.pass_s(0.5)

    assert breaker.allows()


def test_a_probe_that_never_reports_is_followed_by_another(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.pass_s(0.5)
    assert breaker.allows()
    clock.pass_s(0.5)

    assert breaker.allows()


def test_a_clock_set_back_does_not_hold_it_open(breaker: Breaker, clock: Clock) -> None:
    for _ in range(3):
        breaker.failed()
    clock.pass_s(-3600)

    assert breaker.allows()


def test_after_a_rest_a_second_s_worth_goes_at_once_then_one_by_one(clock: Clock) -> None:
    budget = Budget(10, clock)

    assert [budget.reserve(0) for _ in range(11)] == [0.0] * 10 + [None]
    clock.pass_s(0.1)
    assert [budget.reserve(0), budget.reserve(0)] == [0.0, None]


def test_whoever_may_wait_is_told_how_long(clock: Clock) -> None:
    budget = Budget(10, clock)
    for _ in range(10):
        budget.reserve(0)

    assert [budget.reserve(250) for _ in range(3)] == pytest.approx([100, 200, None])


def test_a_budget_below_one_a_second_still_lets_one_pass(clock: Clock) -> None:
    budget = Budget(0.1, clock)

    assert [budget.reserve(0), budget.reserve(0)] == [0.0, None]
    clock.pass_s(10)
    assert budget.reserve(0) == 0.0


@given(st.lists(st.integers(-2000, 2000), max_size=60), st.sampled_from([1.0, 7.0, 50.0]), st.sampled_from([0, 300]))
def test_no_more_than_the_budget_whatever_the_clock_does(steps: list[int], per_s: float, longest_wait_ms: int) -> None:
    clock = Clock()
    budget = Budget(per_s, clock)
    forward_ms = passed = 0
    for step in steps:
        clock.now_ms += step
        forward_ms += max(0, step)
        passed += sum(budget.reserve(longest_wait_ms) is not None for _ in range(5))

    assert passed <= per_s + per_s * (forward_ms + longest_wait_ms) / 1000 + 1

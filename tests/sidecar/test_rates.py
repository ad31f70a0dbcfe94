"""Requests a second of one caller."""

from __future__ import annotations

import pytest

from app.sidecar.rates import MAX_CALLERS, Rates
from tests.telemetry.fakes import FakeClock


def test_two_seconds_of_requests_may_come_at_once_and_then_so_many_a_second() -> None:
    clock = FakeClock()
    rates = Rates(5.0, clock)
    assert [rates.take("ann") for _ in range(10)] == [0.0] * 10
    assert rates.take("ann") == pytest.approx(0.2)
    clock.now += 0.2
    assert [rates.take("ann"), rates.take("ann")] == [0.0, pytest.approx(0.2)]
    clock.now += 3600
    assert [rates.take("ann") for _ in range(11)] == [0.0] * 10 + [pytest.approx(0.2)], "waiting saves no more than the burst"


def test_callers_do_not_share() -> None:
    rates = Rates(0.5, FakeClock())
    assert [rates.take("ann"), rates.take("ann"), rates.take("bob")] == [0.0, 2.0, 0.0]


def test_a_crowd_of_names_costs_bounded_memory_and_takes_nothing_from_who_asks_now() -> None:
    rates = Rates(1.0, FakeClock())
    assert [rates.take("ann") for _ in range(3)] == [0.0, 0.0, 1.0]
    for number in range(MAX_CALLERS - 1):
        rates.take(f"somebody {number}")
    assert rates.take("ann") == 1.0
    assert len(rates._buckets) == MAX_CALLERS
    rates.take("one more")
    assert len(rates._buckets) == MAX_CALLERS

"""The event loop's lag: measured always, a complaint only when it stays."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from prometheus_client import CollectorRegistry

from app.telemetry.exposition import Catalogue
from app.telemetry.loop_lag import LoopLagMonitor
from tests.telemetry.fakes import FakeClock


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(CollectorRegistry())


def test_a_monitor_that_never_started_does_not_complain(catalogue: Catalogue) -> None:
    assert LoopLagMonitor(catalogue).slow_seconds() == 0


def test_one_long_pause_is_forgiven_by_the_next_tick_on_time(catalogue: Catalogue) -> None:
    clock = FakeClock()
    monitor = LoopLagMonitor(catalogue, 0.1, clock)
    monitor.tick()

    clock.now += 60
    monitor.tick()
    assert monitor.slow_seconds() == 60

    clock.now += 0.1
    monitor.tick()
    assert monitor.slow_seconds() == 0


def test_a_loop_that_is_always_late_adds_up(catalogue: Catalogue) -> None:
    clock = FakeClock()
    monitor = LoopLagMonitor(catalogue, 0.1, clock)
    monitor.tick()

    for _ in range(10):
        clock.now += 3.0
        monitor.tick()

    assert monitor.slow_seconds() == pytest.approx(30.0)


def test_a_monitor_that_stopped_measuring_complains(catalogue: Catalogue) -> None:
    clock = FakeClock()
    monitor = LoopLagMonitor(catalogue, 0.1, clock)
    monitor.tick()

    clock.now += 500

    assert monitor.slow_seconds() == 500


async def test_a_blocked_loop_shows_in_the_histogram(catalogue: Catalogue) -> None:
    monitor = LoopLagMonitor(catalogue, 0.005)
    task = asyncio.create_task(monitor.run())
    await asyncio.sleep(0.02)

    time.sleep(0.08)  # noqa: ASYNC251 the blocking is the point
    await asyncio.sleep(0.02)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task

    total = catalogue.registry.get_sample_value("veltrix_loop_lag_seconds_count")
    below = catalogue.registry.get_sample_value("veltrix_loop_lag_seconds_bucket", {"le": "0.05"})
    assert total is not None
    assert below is not None
    assert total > below

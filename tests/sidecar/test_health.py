"""Liveness fails only when work stands still; readiness says what it waits for."""

from __future__ import annotations

import pytest

from app.engine.api import LaneId
from app.engine.status import BreakerState, BreakerStatus, RecoveryStatus, Stall
from app.sidecar.health import ProgressWatchdog
from tests.sidecar.conftest import Sidecar, assert_problem
from tests.telemetry.fakes import FakeClock, FakeEngine, FakeWatchdog, lane

STALL_MS = 120_000


class FakeLoopLag:
    """A loop as late as a test says."""

    def __init__(self, slow_s: float = 0.0) -> None:
        self.slow_s = slow_s

    def slow_seconds(self) -> float:
        return self.slow_s


@pytest.mark.parametrize("path", ["/livez", "/health/live"])
async def test_a_worker_whose_partitions_move_is_alive(sidecar: Sidecar, path: str) -> None:
    answer = await sidecar.get(path)

    assert answer.status_code == 200
    assert answer.json() == {"status": "alive", "version": "1.2.3"}


@pytest.mark.parametrize("path", ["/livez", "/health/live"])
async def test_a_stalled_partition_fails_liveness_and_is_named(sidecar: Sidecar, path: str) -> None:
    sidecar.watchdog.found = [Stall(LaneId("process_interactions", 4), "interactions", 121.4, 5)]

    body = assert_problem(await sidecar.get(path), 503, "stalled")
    assert body["complaints"] == [
        "partition 4 of interactions has not moved for 121 s although 5 records wait (limit 120 s)",
    ]


async def test_lag_without_a_complaint_of_the_watchdog_is_no_stall(sidecar: Sidecar) -> None:
    """An event that comes after hours of silence finds a lane without progress for hours."""
    sidecar.engine.statuses = [lane(0, seconds_since_progress=9999.0)]

    assert (await sidecar.get("/livez")).status_code == 200


def test_a_restore_that_does_not_move_is_a_stall() -> None:
    clock, engine = FakeClock(), FakeEngine(now="recovering", statuses=[], restore=RecoveryStatus(True, 10, 90))
    watchdog = ProgressWatchdog(engine, FakeWatchdog(), FakeLoopLag(), STALL_MS, clock)
    assert watchdog.complaints() == []

    clock.now += 121
    assert watchdog.complaints() == ["the restore of tables has not moved for 121 s with 90 records to go (limit 120 s)"]

    engine.restore = RecoveryStatus(True, 20, 80)
    assert watchdog.complaints() == []


def test_a_finished_restore_is_forgotten() -> None:
    clock, engine = FakeClock(), FakeEngine(restore=RecoveryStatus(True, 10, 90))
    watchdog = ProgressWatchdog(engine, FakeWatchdog(), FakeLoopLag(), STALL_MS, clock)
    watchdog.complaints()
    engine.restore = RecoveryStatus(False, 100, 0)
    watchdog.complaints()

    clock.now += 9999
    engine.restore = RecoveryStatus(True, 10, 90)

    assert watchdog.complaints() == []


def test_a_loop_that_stays_late_fails_liveness() -> None:
    loop_lag = FakeLoopLag(119.0)
    watchdog = ProgressWatchdog(FakeEngine(), FakeWatchdog(), loop_lag, STALL_MS)
    assert watchdog.complaints() == []

    loop_lag.slow_s = 121.0
    assert watchdog.complaints() == ["the event loop has been late for 121 s (limit 120 s)"]


@pytest.mark.parametrize("path", ["/readyz", "/health/ready"])
async def test_a_running_worker_is_ready(sidecar: Sidecar, path: str) -> None:
    answer = await sidecar.get(path)

    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "phase": "running",
        "waiting_for": [],
        "recovery": {"active": False, "restored": 0, "remaining": 0, "records_per_second": 0.0, "seconds": 0.0},
        "assigned_partitions": 2,
        "degraded": [],
        "version": "1.2.3",
    }


async def test_a_recovering_worker_says_what_it_waits_for_and_how_far_it_is(sidecar: Sidecar) -> None:
    sidecar.engine.now = "recovering"
    sidecar.engine.waits = ["3 tables", "the producer"]
    sidecar.engine.restore = RecoveryStatus(True, 1000, 9000, 150_000.0, 0.5)

    answer = await sidecar.get("/readyz")

    body = assert_problem(answer, 503, "not-ready")
    assert body["detail"] == "Waiting for 3 tables, the producer."
    assert body["phase"] == "recovering"
    assert body["waiting_for"] == ["3 tables", "the producer"]
    assert body["recovery"] == {
        "active": True,
        "restored": 1000,
        "remaining": 9000,
        "records_per_second": 150_000.0,
        "seconds": 0.5,
    }
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize("phase", ["starting", "joining", "recovering", "rebalancing", "stopping"])
async def test_only_the_running_phase_is_ready(sidecar: Sidecar, phase: str) -> None:
    sidecar.engine.now = phase  # type: ignore[assignment]

    body = assert_problem(await sidecar.get("/readyz"), 503, "not-ready")
    assert phase in body["detail"]


async def test_a_degraded_worker_is_ready_and_says_so(sidecar: Sidecar) -> None:
    sidecar.degraded.append("redis")

    answer = await sidecar.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["degraded"] == ["redis"]


@pytest.mark.parametrize("state", ["open", "half_open"])
async def test_a_breaker_that_is_not_closed_degrades_a_worker_and_leaves_it_ready_and_alive(
    sidecar: Sidecar, state: BreakerState
) -> None:
    sidecar.degraded.append("redis")
    sidecar.engine.statuses = [lane(0), lane(1, breaker=BreakerStatus(state, 1))]

    answer = await sidecar.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["degraded"] == ["redis", "breaker"]
    assert (await sidecar.get("/livez")).status_code == 200


async def test_partitions_are_counted_once_however_many_topics_they_read(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = [lane(0), lane(0, topic="retry.veltrix.interactions.5s"), lane(1)]

    assert (await sidecar.get("/readyz")).json()["assigned_partitions"] == 2

"""Is this worker alive, and may it take part: ``/livez`` and ``/readyz``."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from app.engine.status import EngineStatus, RecoveryStatus, Stall, Stalls
from app.sidecar.problems import Problem

Probe = Callable[[], Awaitable[JSONResponse]]
"""Answers 200, or raises a Problem that says what is the matter"""


class LoopLag(Protocol):
    """``app.telemetry.loop_lag.LoopLagMonitor`` fits."""

    def slow_seconds(self) -> float:
        """For how long every measurement of the event loop was late; 0 while healthy."""
        ...


class ProgressWatchdog:
    """Says what has stood still for longer than the stall timeout although there is work: partitions, the restore, the loop."""

    def __init__(
        self,
        engine: EngineStatus,
        partitions: Stalls,
        loop_lag: LoopLag,
        stall_timeout_ms: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine, self._partitions, self._loop_lag, self._clock = engine, partitions, loop_lag, clock
        self._limit_s = stall_timeout_ms / 1000
        self._restore: tuple[int, int] | None = None
        self._restore_since = 0.0

    def complaints(self) -> list[str]:
        """Human sentences; empty while alive."""
        found = [self._stalled_partition(stall) for stall in self._partitions.stalls()]
        found += [self._stalled_recovery(self._engine.recovery()), self._slow_loop()]
        return [text for text in found if text]

    def _stalled_partition(self, stall: Stall) -> str:
        return (
            f"partition {stall.lane.partition} of {stall.topic} has not moved for {stall.seconds:.0f} s "
            f"although {stall.lag} records wait (limit {self._limit_s:g} s)"
        )

    def _stalled_recovery(self, recovery: RecoveryStatus) -> str:
        position = (recovery.restored, recovery.remaining) if recovery.active else None
        if position is None or position != self._restore:
            self._restore, self._restore_since = position, self._clock()
            return ""
        still_s = self._clock() - self._restore_since
        if still_s <= self._limit_s:
            return ""
        return f"the restore of tables has not moved for {still_s:.0f} s with {recovery.remaining} records to go (limit {self._limit_s:g} s)"

    def _slow_loop(self) -> str:
        slow_s = self._loop_lag.slow_seconds()
        return f"the event loop has been late for {slow_s:.0f} s (limit {self._limit_s:g} s)" if slow_s > self._limit_s else ""


def health_router(engine: EngineStatus, watchdog: ProgressWatchdog, version: str, degraded: Callable[[], list[str]]) -> APIRouter:
    """``/livez``, ``/readyz`` and their aliases."""

    async def livez() -> JSONResponse:
        """200 while every partition with work moves; 503 problem+json says what stands still."""
        complaints = watchdog.complaints()
        if complaints:
            raise Problem(503, "stalled", "; ".join(complaints), {"complaints": complaints})
        return JSONResponse({"status": "alive", "version": version})

    async def readyz() -> JSONResponse:
        """200 when partitions are assigned, tables restored and the producer is up; 503 says what it waits for."""
        state = _state(engine, version, degraded())
        if state["waiting_for"]:
            waiting = ", ".join(state["waiting_for"])
            raise Problem(503, "not-ready", f"Waiting for {waiting}.", state, {"retry-after": "1"})
        return JSONResponse({"status": "ready", **state})

    return probes(livez, readyz)


def probes(livez: Probe, readyz: Probe) -> APIRouter:
    """Both probes under both of their names."""
    router = APIRouter(tags=["health"])
    for path, alias, endpoint in (("/livez", "/health/live", livez), ("/readyz", "/health/ready", readyz)):
        router.add_api_route(path, endpoint, response_model=None, responses={503: {"description": "application/problem+json"}})
        router.add_api_route(alias, endpoint, response_model=None, include_in_schema=False)
    return router


def _state(engine: EngineStatus, version: str, degraded: list[str]) -> dict[str, Any]:
    phase, waiting = engine.phase(), list(engine.waiting_for())
    if phase != "running" and not waiting:
        waiting = [f"the engine to leave the phase {phase}"]
    return {
        "phase": phase,
        "waiting_for": waiting,
        "recovery": asdict(engine.recovery()),
        "assigned_partitions": len({status.lane for status in engine.lanes()}),
        "degraded": [*degraded, *_breaker(engine)],
        "version": version,
    }


def _breaker(engine: EngineStatus) -> list[str]:
    return ["breaker"] if any(lane.breaker.state != "closed" for lane in engine.lanes()) else []

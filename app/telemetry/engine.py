"""Gauges of the running engine, read from ``EngineStatus`` when ``/metrics`` is scraped."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from typing import get_args

from app.engine.status import EngineStatus, LaneStatus, Phase
from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.metric import Reading


class EngineMetrics:
    """Lag, ages, queues, state size, recovery and readiness; costs nothing between two scrapes."""

    def __init__(
        self,
        catalogue: Catalogue,
        engine: EngineStatus,
        newest_ms: Callable[[str, int], int | None] = lambda _topic, _partition: None,
    ) -> None:
        """``newest_ms``: timestamp of the last record applied of a topic's partition, epoch ms; None: not known."""
        self._engine, self._newest_ms = engine, newest_ms
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        statuses = self._engine.lanes()
        lanes = {status.lane: status for status in statuses}  # one of a lane's topics tells what they share
        yield m.ASSIGNED, (), len(lanes)
        for status in statuses:
            yield from _source(status)
            yield from self._lag_seconds(status)
        for status in lanes.values():
            yield from _lane(status)
            yield from _ledger(status)
        phase = self._engine.phase()
        for name in get_args(Phase):
            yield m.PHASE, (name,), float(name == phase)
        yield m.READY, (), float(phase == "running" and not self._engine.waiting_for())
        recovery = self._engine.recovery()
        yield m.RECOVERY_ACTIVE, (), float(recovery.active)
        yield m.RECOVERY_REMAINING, (), recovery.remaining
        yield m.RECOVERY_RATE, (), recovery.records_per_second
        for standby in self._engine.standbys():
            if standby.lag >= 0:  # an unknown lag is absent, not 0
                yield m.STANDBY_LAG, (standby.lane.agent, str(standby.lane.partition)), standby.lag

    def _lag_seconds(self, lane: LaneStatus) -> Iterator[Reading]:
        newest_ms = self._newest_ms(lane.topic, lane.lane.partition)
        if not lane.is_tier and newest_ms is not None and lane.end_offset >= 0:
            seconds = max(0.0, time.time() - newest_ms / 1000) if lane.lag else 0.0
            yield m.LAG_SECONDS, (lane.topic, str(lane.lane.partition)), seconds


def _source(lane: LaneStatus) -> Iterator[Reading]:
    source = (lane.topic, str(lane.lane.partition))
    if lane.end_offset >= 0 and lane.next_offset >= 0:  # an unknown lag is absent, not 0
        yield m.RETRY_WAITING if lane.is_tier else m.CONSUMER_LAG, source, lane.lag
    if lane.committed_offset >= 0 and math.isfinite(lane.seconds_since_commit):
        yield m.COMMIT_AGE, source, lane.seconds_since_commit


def _lane(lane: LaneStatus) -> Iterator[Reading]:
    owner = (lane.lane.agent, str(lane.lane.partition))
    yield m.STATE_KEYS, owner, lane.state_keys
    for view, count in lane.waiting.items():
        yield m.WAITING_KEYS, (*owner, view), count
    yield m.QUEUED_RECORDS, owner, lane.queued_records
    yield m.UNITS_IN_FLIGHT, owner, lane.units_in_flight
    yield m.LANES_PAUSED, owner, float(lane.paused)
    yield m.HELD_KEYS, owner, lane.held.keys
    yield m.HELD_EVENTS, owner, lane.held.waiting
    if lane.held.oldest:
        yield m.HELD_SECONDS, owner, max(0.0, time.time() - lane.held.oldest[0].since_ms / 1000)
    yield m.DEAD_LETTERS_WAIT, owner, lane.dead_letters_wait_s
    yield m.BREAKER_OPEN, owner, float(lane.breaker.state != "closed")
    yield m.BREAKER_OPENINGS, owner, lane.breaker.openings


def _ledger(lane: LaneStatus) -> Iterator[Reading]:
    owner, ledger = (lane.lane.agent, str(lane.lane.partition)), lane.ledger
    yield m.LEDGER_RESIDUE, owner, ledger.residue
    yield m.LEDGER_CONSUMED, owner, ledger.consumed
    yield m.LEDGER_OUTCOMES, (*owner, "emitted"), ledger.emitted
    yield m.LEDGER_OUTCOMES, (*owner, "duplicate"), ledger.duplicates
    yield m.LEDGER_OUTCOMES, (*owner, "dead_lettered"), ledger.dead_lettered
    yield m.LEDGER_OUTCOMES, (*owner, "retried"), ledger.retried
    yield m.LEDGER_OUTCOMES, (*owner, "dropped"), ledger.dropped


class BuildInfo:
    """Which code runs here."""

    def __init__(self, catalogue: Catalogue, app_id: str, version: str) -> None:
        self._labels = {"app": app_id, "version": version, "python": platform.python_version()}
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        yield m.BUILD, (), self._labels

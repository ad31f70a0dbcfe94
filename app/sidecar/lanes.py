"""What each lane of this worker does: positions, queues, breaker."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel

from app.dead_letters.headers import rfc3339
from app.engine.status import BreakerState, EngineStatus, LaneStatus


class BreakerAnswer(BaseModel):
    """`events` and `dead_letters` are those of the sliding window; `retry_in_s` is 0 unless the breaker is open."""

    state: BreakerState
    openings: int
    retry_in_s: float
    events: int
    dead_letters: int


class LaneAnswer(BaseModel):
    """One lane right now. Offsets are the next to read, null when unknown. `held_by`: what holds it by design (`breaker`, `retry_delay`)."""

    agent: str
    partition: int
    topic: str
    lag: int | None
    next_offset: int | None
    committed_offset: int | None
    end_offset: int | None
    changelog_offset: int | None
    queued_records: int
    units_in_flight: int
    paused: bool
    held_by: str | None
    breaker: BreakerAnswer
    seconds_since_progress: float | None
    seconds_since_commit: float | None
    state_keys: int


class HeldKeyAnswer(BaseModel):
    """A key whose later events wait. `event` has failed, at `since`: its `dlq.id` as soon as it is a dead letter."""

    agent: str
    event: str
    since: str
    waiting: int


class HeldKeysAnswer(BaseModel):
    """How many keys are held and events wait on this worker; `oldest`: up to 20 keys per partition, those held longest."""

    keys: int
    waiting: int
    oldest: list[HeldKeyAnswer]


class LanesAnswer(BaseModel):
    """All lanes of this worker."""

    phase: str
    lanes: list[LaneAnswer]


def lanes_router(engine: EngineStatus) -> APIRouter:
    """``/lanes``."""
    router = APIRouter(tags=["engine"])

    @router.get("/lanes")
    async def lanes() -> LanesAnswer:
        """Position, lag and queues of every partition this worker owns."""
        return LanesAnswer(phase=engine.phase(), lanes=[_lane(lane) for lane in _in_order(engine)])

    @router.get("/held-keys")
    async def held_keys() -> HeldKeysAnswer:
        """Keys of which an event has failed, so that later ones wait behind it (`VELTRIX_KEY_ORDER`)."""
        return _held([lane for lane in engine.lanes() if not lane.is_tier])

    return router


def _held(lanes: Sequence[LaneStatus]) -> HeldKeysAnswer:
    oldest = sorted(((key, lane) for lane in lanes for key in lane.held.oldest), key=lambda found: found[0].since_ms)
    return HeldKeysAnswer(
        keys=sum(lane.held.keys for lane in lanes),
        waiting=sum(lane.held.waiting for lane in lanes),
        oldest=[
            HeldKeyAnswer(
                agent=lane.lane.agent,
                event=f"{lane.topic}:{lane.lane.partition}:{key.offset}",
                since=rfc3339(key.since_ms),
                waiting=key.waiting,
            )
            for key, lane in oldest
        ],
    )


def _in_order(engine: EngineStatus) -> Sequence[LaneStatus]:
    return sorted(engine.lanes(), key=lambda status: (status.lane, status.topic))


def _lane(status: LaneStatus) -> LaneAnswer:
    known = status.end_offset >= 0 and status.next_offset >= 0
    return LaneAnswer(
        agent=status.lane.agent,
        partition=status.lane.partition,
        topic=status.topic,
        lag=status.lag if known else None,
        next_offset=_known(status.next_offset),
        committed_offset=_known(status.committed_offset),
        end_offset=_known(status.end_offset),
        changelog_offset=_known(status.changelog_offset),
        queued_records=status.queued_records,
        units_in_flight=status.units_in_flight,
        paused=status.paused,
        held_by=status.held_by or None,
        breaker=BreakerAnswer.model_validate(asdict(status.breaker)),
        seconds_since_progress=_finite(status.seconds_since_progress),
        seconds_since_commit=_finite(status.seconds_since_commit),
        state_keys=status.state_keys,
    )


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None

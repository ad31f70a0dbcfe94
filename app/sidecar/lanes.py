"""What each lane of this worker does: positions and queues, and the loss ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel

from app.engine.status import EngineStatus, LaneStatus, Ledger

OUTCOMES = ("consumed", "emitted", "duplicates", "dead_lettered", "retried", "dropped")


class LedgerCounts(BaseModel):
    """Outcomes since the first record ever; survives restarts and moves between workers."""

    consumed: int
    emitted: int
    duplicates: int
    dead_lettered: int
    retried: int
    dropped: int
    residue: int
    """Consumed records without an outcome: 0, or records were lost."""


class LaneLedger(LedgerCounts):
    """The ledger of one partition of one agent."""

    agent: str
    partition: int
    topic: str


class LedgerAnswer(BaseModel):
    """Of the partitions this worker owns; the group's ledger is the sum over its workers."""

    total: LedgerCounts
    lanes: list[LaneLedger]


class LaneAnswer(BaseModel):
    """One lane right now. Offsets are the next to read, null when unknown."""

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
    seconds_since_progress: float | None
    seconds_since_commit: float | None
    state_keys: int


class LanesAnswer(BaseModel):
    """All lanes of this worker."""

    phase: str
    lanes: list[LaneAnswer]


def lanes_router(engine: EngineStatus) -> APIRouter:
    """``/ledger`` and ``/lanes``."""
    router = APIRouter(tags=["engine"])

    @router.get("/ledger")
    async def ledger() -> LedgerAnswer:
        """Did we lose anything? `residue` is the number."""
        lanes = _in_order(engine)
        total = Ledger(*(sum(getattr(lane.ledger, name) for lane in lanes) for name in OUTCOMES))
        return LedgerAnswer(total=LedgerCounts.model_validate(_counts(total)), lanes=[_ledger(lane) for lane in lanes])

    @router.get("/lanes")
    async def lanes() -> LanesAnswer:
        """Position, lag and queues of every partition this worker owns."""
        return LanesAnswer(phase=engine.phase(), lanes=[_lane(lane) for lane in _in_order(engine)])

    return router


def _in_order(engine: EngineStatus) -> Sequence[LaneStatus]:
    return sorted(engine.lanes(), key=lambda status: status.lane)


def _counts(ledger: Ledger) -> dict[str, int]:
    return {name: getattr(ledger, name) for name in OUTCOMES} | {"residue": ledger.residue}


def _ledger(status: LaneStatus) -> LaneLedger:
    agent, partition = status.lane
    return LaneLedger.model_validate(_counts(status.ledger) | {"agent": agent, "partition": partition, "topic": status.topic})


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
        seconds_since_progress=_finite(status.seconds_since_progress),
        seconds_since_commit=_finite(status.seconds_since_commit),
        state_keys=status.state_keys,
    )


def _known(offset: int) -> int | None:
    return offset if offset >= 0 else None


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None

"""The loss ledger: every consumed record has exactly one outcome, and here are the counts."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

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


class SourceProgress(BaseModel):
    """How far one source topic of a lane is applied: every record below `next_offset` is in the counts. Null: none yet."""

    topic: str
    next_offset: int | None


class LaneLedger(LedgerCounts):
    """The ledger of one partition of one agent. Its topics (source and retries) share the counts, as they share the state."""

    agent: str
    partition: int
    sources: list[SourceProgress]


class LedgerAnswer(BaseModel):
    """Of the partitions this worker owns; the group's ledger is the sum over its workers."""

    total: LedgerCounts
    lanes: list[LaneLedger]


def ledger_router(engine: EngineStatus) -> APIRouter:
    """``/ledger``."""
    router = APIRouter(tags=["engine"])

    @router.get("/ledger")
    async def ledger() -> LedgerAnswer:
        """Did we lose anything? `residue` is the number."""
        ordered = sorted(engine.lanes(), key=lambda status: (status.lane, status.topic))
        lanes = [list(topics) for _, topics in groupby(ordered, key=lambda status: status.lane)]
        total = Ledger(*(sum(getattr(topics[0].ledger, name) for topics in lanes) for name in OUTCOMES))
        return LedgerAnswer(total=LedgerCounts.model_validate(_counts(total)), lanes=[_lane(topics) for topics in lanes])

    return router


def _counts(ledger: Ledger) -> dict[str, int]:
    return {name: getattr(ledger, name) for name in OUTCOMES} | {"residue": ledger.residue}


def _lane(topics: list[LaneStatus]) -> LaneLedger:
    agent, partition = topics[0].lane
    return LaneLedger.model_validate(
        _counts(topics[0].ledger) | {"agent": agent, "partition": partition, "sources": list(_sources(topics))}
    )


def _sources(topics: Iterable[LaneStatus]) -> Iterable[SourceProgress]:
    for status in topics:
        yield SourceProgress(topic=status.topic, next_offset=status.next_offset if status.next_offset >= 0 else None)

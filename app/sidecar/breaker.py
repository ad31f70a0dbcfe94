"""Closing a breaker by hand: the operator knows that the source is mended and does not want to wait for the probe."""

from __future__ import annotations

from typing import Annotated

import structlog
from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.engine.api import LaneId
from app.engine.status import BreakerControl, BreakerState, BreakerStatus, EngineStatus
from app.sidecar.problems import Problem

log = structlog.get_logger(__name__)


class NoBreakers:
    """A worker without breakers: there is none to close."""

    def close(self, lane: LaneId) -> BreakerStatus:
        """See :class:`app.engine.status.BreakerControl`."""
        raise KeyError(lane)


class CloseRequest(BaseModel):
    """Why the breaker is closed; written to the log."""

    reason: str = Field(min_length=1, max_length=500)


class CloseAnswer(BaseModel):
    """`was` is what the breaker did before: a closed one stays closed, and forgets its window."""

    agent: str
    partition: int
    was: BreakerState
    state: BreakerState


def breaker_router(engine: EngineStatus, breakers: BreakerControl) -> APIRouter:
    """``/breaker``."""
    router = APIRouter(prefix="/breaker", tags=["engine"])

    @router.post("/{agent}/{partition}/close")
    async def close(agent: str, partition: Annotated[int, Path(ge=0)], request: CloseRequest) -> CloseAnswer:
        """Let the partition's records through again, within a second. It opens again when they still fail."""
        lane = LaneId(agent, partition)
        try:
            if not engine.owns(lane):
                raise KeyError(lane)
            was = breakers.close(lane)
        except KeyError:
            detail = f"This worker does not run partition {partition} of {agent}; ask the worker that lists it at /api/v1/lanes."
            raise Problem(404, "unknown-lane", detail) from None
        log.warning("breaker_closed_by_operator", agent=agent, partition=partition, was=was.state, reason=request.reason)
        return CloseAnswer(agent=agent, partition=partition, was=was.state, state="closed")

    return router

"""The HTTP application of ``veltrix admin``: dead letters with their index, and what can be done about them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from app.dead_letters.audit import AuditReader
from app.dead_letters.desk import Desk
from app.dead_letters.index.follower import IndexFollower
from app.dead_letters.index.service import DeadLetterIndex
from app.dead_letters.job_board import JobBoard
from app.settings import Settings
from app.sidecar import problems
from app.sidecar.access import Access
from app.sidecar.app import index_router, protect
from app.sidecar.dead_letter_deeds import deeds_router, groups_router
from app.sidecar.dead_letter_exports import exports_router
from app.sidecar.dead_letter_jobs import jobs_router
from app.sidecar.dead_letter_stream import stream_router
from app.sidecar.dead_letter_trials import Validate
from app.sidecar.dead_letters import dead_letters_router
from app.sidecar.health import probes
from app.sidecar.masking import Masks
from app.sidecar.metrics import metrics_router
from app.sidecar.problems import Problem
from app.topics import INTERACTIONS, dead_letters_of

LINKS: Final = {
    "live": "/livez",
    "ready": "/readyz",
    "metrics": "/metrics",
    "dead_letter_queues": "/api/v1/dlq/queues",
    "dead_letter_groups": "/api/v1/dlq/groups",
    "dead_letters": "/api/v1/dlq/records",
    "dead_letter_jobs": "/api/v1/dlq/replays",
    "dead_letter_audit": "/api/v1/dlq/audit",
    "docs": "/docs",
    "openapi": "/openapi.json",
}
#: More than this many records behind, the index is said to be catching up.
FRESH_RECORDS: Final = 10_000


@dataclass(frozen=True, slots=True)
class AdminDeps:
    """Everything the application needs; the composition root fills it in."""

    settings: Settings
    index: DeadLetterIndex
    audit: AuditReader
    follower: IndexFollower
    desk: Desk
    board: JobBoard
    validate: Validate
    access: Access
    registry: CollectorRegistry
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """ends what would go on for ever"""


def create_admin(deps: AdminDeps) -> FastAPI:
    """Build the application; opens nothing and starts nothing."""
    settings = deps.settings
    admin = FastAPI(
        title=f"Veltrix dead letters of {settings.app_id}",
        version=settings.app_version,
        redoc_url=None,
        responses=problems.RESPONSES,
    )
    problems.install(admin)
    default_queue = dead_letters_of(settings.app_id, INTERACTIONS)
    admin.include_router(_health_router(deps.follower, settings.app_version))
    admin.include_router(metrics_router(deps.registry))
    masks = Masks(settings.dlq_masked_fields)
    admin.include_router(stream_router(deps.index, deps.access, default_queue, masks, deps.stopping), prefix="/api/v1")
    admin.include_router(dead_letters_router(deps.index, default_queue, deps.access, masks), prefix="/api/v1")
    admin.include_router(groups_router(deps.index, deps.desk, deps.validate, deps.access, default_queue), prefix="/api/v1")
    admin.include_router(deeds_router(deps.index, deps.desk, deps.validate, deps.access), prefix="/api/v1")
    admin.include_router(jobs_router(deps.board, deps.access, default_queue), prefix="/api/v1")
    admin.include_router(exports_router(deps.index, deps.audit, deps.access, default_queue), prefix="/api/v1")
    admin.include_router(index_router(settings, LINKS))
    protect(admin, settings, deps.registry)
    return admin


def _health_router(follower: IndexFollower, version: str) -> APIRouter:
    async def livez() -> JSONResponse:
        """200 while it answers."""
        return JSONResponse({"status": "alive", "version": version})

    async def readyz() -> JSONResponse:
        """200 when the index is up with Kafka; 503 says how far it is, or why it waits."""
        lag, problem = follower.lag, follower.problem
        state: dict[str, Any] = {"index_lag": lag, "version": version}
        if problem is not None:
            raise Problem(503, "not-ready", f"Waiting for Kafka: {problem}", state, {"retry-after": "1"})
        if lag is None or lag > FRESH_RECORDS or not follower.is_built:
            detail = f"The index is being built: {'unknown' if lag is None else lag} records to go."
            raise Problem(503, "not-ready", detail, state, {"retry-after": "1"})
        return JSONResponse({"status": "ready", **state})

    return probes(livez, readyz)

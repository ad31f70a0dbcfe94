"""The HTTP application of ``veltrix serve``: lookups alone, read from Redis, beside the workers instead of inside one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from app.engine.api import LaneId
from app.lookups.api import LookupReader
from app.settings import Settings
from app.sidecar import problems
from app.sidecar.app import LINKS, allowed_hosts, index_router, protect
from app.sidecar.health import probes
from app.sidecar.hot_lookups import MAX_REQUESTS, HotLookups
from app.sidecar.lookups import lookups_router
from app.sidecar.metrics import metrics_router
from app.sidecar.problems import Problem

SERVED: Final = ("live", "ready", "metrics", "lookups", "docs", "openapi")


class RedisReader(LookupReader, Protocol):
    """``app.lookups.reader.RedisLookupReader`` fits."""

    async def covers(self) -> Mapping[LaneId, object] | None:
        """What Redis says of each lane, None where it is not filled; None at all when it does not answer."""
        ...


def create_lookup_server(settings: Settings, reader: RedisReader, registry: CollectorRegistry) -> ASGIApp:
    """Build the application; opens nothing and starts nothing."""
    server = FastAPI(
        title=f"Veltrix lookups of {settings.app_id}", version=settings.app_version, redoc_url=None, responses=problems.RESPONSES
    )
    problems.install(server)
    server.include_router(_health_router(reader, settings.app_version))
    server.include_router(metrics_router(registry))
    server.include_router(lookups_router(reader), prefix="/api/v1")
    server.include_router(index_router(settings, {name: LINKS[name] for name in SERVED}))
    protect(server, settings, registry, MAX_REQUESTS)
    return HotLookups(server, reader, allowed_hosts(settings))


def _health_router(reader: RedisReader, version: str) -> APIRouter:
    async def livez() -> JSONResponse:
        """200: there is nothing in this process that could stand still while it answers."""
        return JSONResponse({"status": "alive", "version": version})

    async def readyz() -> JSONResponse:
        """200 while Redis answers, with the partitions that a worker has yet to fill; 503 while it does not."""
        covers = await reader.covers()
        if covers is None:
            raise Problem(503, "not-ready", "Waiting for Redis.", {"waiting_for": ["redis"]}, {"retry-after": "1"})
        unfilled = sorted(str(lane) for lane, cover in covers.items() if cover is None)
        state: dict[str, Any] = {"partitions": len(covers), "unfilled": unfilled, "version": version}
        return JSONResponse({"status": "ready", **state})

    return probes(livez, readyz)

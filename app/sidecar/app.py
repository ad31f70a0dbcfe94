"""The sidecar's HTTP application: health, metrics, lookups, dead letters, lanes."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from app.settings import LOOPBACK
from app.sidecar import problems
from app.sidecar.breaker import breaker_router
from app.sidecar.dead_letters import dead_letters_router
from app.sidecar.deps import SidecarDeps
from app.sidecar.health import ProgressWatchdog, health_router
from app.sidecar.lanes import lanes_router
from app.sidecar.ledger import ledger_router
from app.sidecar.lookups import lookups_router
from app.sidecar.metrics import measure_http, metrics_router
from app.sidecar.middleware import HostCheck, Limits, SameOrigin, SecurityHeaders
from app.sidecar.references import references_router
from app.topics import INTERACTIONS, dead_letters_of

LINKS = {
    "live": "/livez",
    "ready": "/readyz",
    "metrics": "/metrics",
    "lookups": "/api/v1/lookups/{resource}/{id}",
    "dead_letter_queues": "/api/v1/dlq/queues",
    "dead_letters": "/api/v1/dlq/records",
    "ledger": "/api/v1/ledger",
    "lanes": "/api/v1/lanes",
    "docs": "/docs",
    "openapi": "/openapi.json",
}


def create_sidecar(deps: SidecarDeps) -> FastAPI:
    """Build the application; opens nothing and starts nothing."""
    settings = deps.settings
    sidecar = FastAPI(title=f"Veltrix sidecar of {settings.app_id}", version=settings.app_version, redoc_url=None)
    problems.install(sidecar)
    watchdog = ProgressWatchdog(deps.engine, deps.watchdog, deps.loop_lag, settings.stall_timeout_ms)
    sidecar.include_router(health_router(deps.engine, watchdog, settings.app_version, deps.degraded))
    sidecar.include_router(metrics_router(deps.registry))
    default_queue = dead_letters_of(settings.app_id, INTERACTIONS)
    for router in (
        lookups_router(deps.lookups),
        dead_letters_router(deps.dead_letters, default_queue),
        ledger_router(deps.engine),
        lanes_router(deps.engine),
        breaker_router(deps.engine, deps.breakers),
        references_router(deps.references),
    ):
        sidecar.include_router(router, prefix="/api/v1")
    sidecar.include_router(_index(settings.app_id, settings.app_version))
    # The last one added is the outermost: headers on every answer, every refusal counted.
    sidecar.add_middleware(Limits)
    sidecar.add_middleware(SameOrigin)
    if settings.sidecar_host in LOOPBACK and not settings.sidecar_allow_remote:
        sidecar.add_middleware(HostCheck, allowed=frozenset(LOOPBACK))
    measure_http(sidecar, deps.registry)
    sidecar.add_middleware(SecurityHeaders)
    return sidecar


def _index(app_id: str, version: str) -> APIRouter:
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> dict[str, object]:
        return {"service": app_id, "version": version, "links": LINKS}

    return router

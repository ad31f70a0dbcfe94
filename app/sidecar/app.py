"""The sidecar's HTTP application: health, metrics, lookups, dead letters, lanes."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry

from app.settings import LOOPBACK, Settings
from app.sidecar import problems
from app.sidecar.breaker import breaker_router
from app.sidecar.dead_letters import dead_letters_router
from app.sidecar.deps import SidecarDeps
from app.sidecar.health import ProgressWatchdog, health_router
from app.sidecar.lanes import lanes_router
from app.sidecar.ledger import ledger_router
from app.sidecar.log_ins import worker_access
from app.sidecar.lookups import lookups_router
from app.sidecar.masking import Masks
from app.sidecar.metrics import measure_http, metrics_router
from app.sidecar.middleware import MAX_REQUESTS, HostCheck, Limits, SameOrigin, SecurityHeaders
from app.sidecar.references import references_router
from app.sidecar.topology import topology_page_router, topology_router
from app.sidecar.topology_graph import Topology
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
    "topology": "/topology",
    "docs": "/docs",
    "openapi": "/openapi.json",
}


def create_sidecar(deps: SidecarDeps) -> FastAPI:
    """Build the application; opens nothing and starts nothing."""
    settings = deps.settings
    sidecar = FastAPI(
        title=f"Veltrix sidecar of {settings.app_id}", version=settings.app_version, redoc_url=None, responses=problems.RESPONSES
    )
    problems.install(sidecar)
    watchdog = ProgressWatchdog(deps.engine, deps.watchdog, deps.loop_lag, settings.stall_timeout_ms)
    sidecar.include_router(health_router(deps.engine, watchdog, settings.app_version, deps.degraded))
    sidecar.include_router(metrics_router(deps.registry))
    default_queue = dead_letters_of(settings.app_id, INTERACTIONS)
    for router in (
        lookups_router(deps.lookups),
        dead_letters_router(deps.dead_letters, default_queue, worker_access(settings), Masks(settings.dlq_masked_fields)),
        ledger_router(deps.engine),
        lanes_router(deps.engine),
        breaker_router(deps.engine, deps.breakers),
        references_router(deps.references),
        topology_router(Topology(settings, deps.engine, deps.live, deps.degraded).look),
    ):
        sidecar.include_router(router, prefix="/api/v1")
    sidecar.include_router(topology_page_router())
    sidecar.include_router(index_router(settings, LINKS))
    protect(sidecar, settings, deps.registry)
    return sidecar


def protect(app: FastAPI, settings: Settings, registry: CollectorRegistry, requests: int = MAX_REQUESTS) -> None:
    """Limits, checks, measurements and headers around ``app``, which answers at most that many ``requests`` at a time."""
    # The last one added is the outermost: headers on every answer, every refusal counted.
    app.add_middleware(Limits, requests=requests)
    app.add_middleware(SameOrigin)
    if (hosts := allowed_hosts(settings)) is not None:
        app.add_middleware(HostCheck, allowed=hosts)
    measure_http(app, registry)
    app.add_middleware(SecurityHeaders)


def allowed_hosts(settings: Settings) -> frozenset[str] | None:
    """Names by which a process on loopback may be called; None: any, something in front of it decides."""
    return frozenset(LOOPBACK) if settings.sidecar_host in LOOPBACK and not settings.sidecar_allow_remote else None


def index_router(settings: Settings, links: Mapping[str, str]) -> APIRouter:
    """``/``: who this is and where things are."""
    router = APIRouter()

    @router.get("/", include_in_schema=False)
    async def index() -> dict[str, object]:
        return {"service": settings.app_id, "version": settings.app_version, "links": links}

    return router

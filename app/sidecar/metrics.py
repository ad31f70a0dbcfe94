"""``/metrics``: the whole registry, as OpenMetrics or as Prometheus text, whichever the scraper prefers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_fastapi_instrumentator import Instrumentator

from app.sidecar.middleware import UNLIMITED


class _Collected(Collector):
    """Values already read."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def metrics_router(registry: CollectorRegistry) -> APIRouter:
    """Values are read on the event loop, so that they agree with one another; the text (milliseconds of work with
    many partitions) is made in a thread, so that a scrape does not hold the stream up."""
    router = APIRouter(tags=["health"])

    @router.get("/metrics", response_class=Response, response_model=None)
    async def metrics(request: Request) -> Response:
        """All metrics of this worker. `Accept: application/openmetrics-text` gets OpenMetrics."""
        encode, content_type = _encoder(request.headers.get("accept", ""))
        collected = _Collected(list(registry.collect()))
        return Response(await asyncio.to_thread(encode, collected), headers={"content-type": content_type})

    return router


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        return choose_encoder(accept)
    except (TypeError, ValueError):  # what the library makes of a version that is not a number
        return choose_encoder("")


def measure_http(app: FastAPI, registry: CollectorRegistry) -> None:
    """Metrics of the sidecar's own requests, by route template; probes and scrapes left out."""
    excluded = [f"^{path}$" for path in sorted(UNLIMITED)]
    Instrumentator(excluded_handlers=excluded, registry=registry).instrument(
        app, latency_lowr_buckets=(0.001, 0.002, 0.005, 0.01, 0.1, 1)
    )

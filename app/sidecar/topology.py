"""``/topology``: the pipeline as a picture, and ``/api/v1/topology``: the same as JSON. Of this worker's partitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

PAGES: Final = Path(__file__).with_name("pages")
#: The page's own files and this API, nothing else: it works without the internet.
POLICY: Final = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
FILES: Final = {"topology.js": "text/javascript", "topology.css": "text/css"}

Kind = Literal["topic", "agent", "table", "redis", "database", "dead_letters", "retries"]
Health = Literal["ok", "warn", "bad"]


class PartitionAnswer(BaseModel):
    """One partition of an agent. `hot`: it gets far more than its share."""

    partition: int
    per_s: float | None
    lag: int | None
    hot: bool
    health: Health
    says: str = Field(description="What is the matter; empty when nothing is")


class NodeAnswer(BaseModel):
    """A topic, an agent, or a store. `of`: the agent that it belongs to, for tables, stores, dead letters and retries."""

    id: str
    kind: Kind
    title: str
    of: str | None = None
    health: Health = "ok"
    facts: dict[str, float | int | str | None] = Field(default_factory=dict)
    partitions: list[PartitionAnswer] = Field(default_factory=list)


class EdgeAnswer(BaseModel):
    """What flows from `source` to `target`, per second, in the last ten. `lag` and the latencies where records are read."""

    source: str
    target: str
    per_s: float | None
    lag: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None


class TopologyAnswer(BaseModel):
    """The running pipeline. Rates are null in the first second of a worker."""

    app: str
    worker: str
    phase: str
    nodes: list[NodeAnswer]
    edges: list[EdgeAnswer]


def topology_router(look: Callable[[], TopologyAnswer]) -> APIRouter:
    """``/topology`` under the API's prefix."""
    router = APIRouter(tags=["engine"])

    @router.get("/topology")
    async def topology() -> TopologyAnswer:
        """Topics, agents, tables and stores of this worker, with live rates, lag and latency."""
        return look()

    return router


def topology_page_router() -> APIRouter:
    """The page and its two files."""
    router = APIRouter()

    @router.get("/topology", include_in_schema=False)
    async def page() -> Response:
        return _file("topology.html", "text/html")

    @router.get("/topology/{name}", include_in_schema=False)
    async def part(name: Literal["topology.js", "topology.css"]) -> Response:
        return _file(name, FILES[name])

    return router


def _file(name: str, media_type: str) -> Response:
    return Response((PAGES / name).read_bytes(), media_type=media_type, headers={"content-security-policy": POLICY})

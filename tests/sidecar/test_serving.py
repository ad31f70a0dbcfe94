"""``veltrix serve`` over HTTP: lookups, health, metrics, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
import pytest
from prometheus_client import CollectorRegistry

from app.engine.api import LaneId
from app.lookups.api import LookupUnavailable
from app.settings import load_settings
from app.sidecar.serving import create_lookup_server
from tests.sidecar.conftest import FakeLookups, assert_problem, client_of
from tests.sidecar.test_lookups import ANSWER

LANE, OTHER = LaneId("process_interactions", 0), LaneId("process_interactions", 1)


@dataclass
class FakeReader(FakeLookups):
    """With covers as a test wants them."""

    held: Mapping[LaneId, object] | None = None

    async def covers(self) -> Mapping[LaneId, object] | None:
        return self.held


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader({("users", "u:42"): ANSWER}, held={LANE: object(), OTHER: None})


@pytest.fixture
def server(reader: FakeReader) -> httpx.AsyncClient:
    return client_of(create_lookup_server(load_settings(app_version="1.2.3"), reader, CollectorRegistry()))


async def test_plain_conditional_and_merged_questions_are_answered(server: httpx.AsyncClient, reader: FakeReader) -> None:
    reader.partitions["totals", "all"] = [None, None]

    plain = await server.get("/api/v1/lookups/users/42")
    again = await server.get("/api/v1/lookups/users/42", headers={"if-none-match": plain.headers["etag"]})
    totals = await server.get("/api/v1/lookups/totals")

    assert plain.json()["value"]["sequence"] == 7
    assert again.status_code == 304
    assert totals.json()["totals"] == {}


async def test_what_nobody_here_can_tell_is_refused(server: httpx.AsyncClient, reader: FakeReader) -> None:
    reader.failure = LookupUnavailable("not_covered", 3)

    assert_problem(await server.get("/api/v1/lookups/users/42"), 503, "lookup-unavailable")


async def test_it_is_alive_and_ready_and_says_what_is_not_filled(server: httpx.AsyncClient) -> None:
    assert (await server.get("/livez")).json() == {"status": "alive", "version": "1.2.3"}
    ready = await server.get("/readyz")
    assert ready.json() == {"status": "ready", "partitions": 2, "unfilled": [str(OTHER)], "version": "1.2.3"}


async def test_without_redis_it_is_alive_and_not_ready(server: httpx.AsyncClient, reader: FakeReader) -> None:
    reader.held = None

    assert (await server.get("/livez")).status_code == 200
    assert assert_problem(await server.get("/readyz"), 503, "not-ready")["waiting_for"] == ["redis"]


async def test_it_counts_requests_and_knows_nothing_of_dead_letters_or_lanes(server: httpx.AsyncClient) -> None:
    for path in ("/api/v1/dlq/queues", "/api/v1/lanes", "/api/v1/ledger"):
        assert_problem(await server.get(path), 404, "not-found")

    assert "http_requests_total" in (await server.get("/metrics")).text
    assert set((await server.get("/")).json()["links"]) == {"live", "ready", "metrics", "lookups", "docs", "openapi"}

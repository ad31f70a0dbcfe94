"""A whole sidecar on fakes: real routes, middleware, metrics and problems; no Kafka, Redis or engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from app.dead_letters.api import DeadLetterRecord, Filters, Page, QueueSummary
from app.dead_letters.headers import Attempt
from app.engine.api import LaneId, LookupKeys
from app.engine.status import BreakerStatus
from app.enrichment.api import UnknownReference
from app.lookups.api import LookupAnswer, LookupUnavailable, UnknownLookup
from app.settings import Settings, load_settings
from app.sidecar.app import create_sidecar
from app.sidecar.deps import SidecarDeps
from app.telemetry.engine import EngineMetrics
from app.telemetry.exposition import Catalogue
from app.telemetry.live import LiveNumbers
from app.telemetry.loop_lag import LoopLagMonitor
from app.telemetry.pipeline import PipelineMetrics
from tests.telemetry.fakes import FakeEngine, FakeWatchdog, unit


@dataclass
class FakeLookups:
    """``LookupReader`` over a dictionary; ``failure`` is raised instead of answering."""

    answers: dict[tuple[str, str], LookupAnswer | LookupUnavailable] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    failure: Exception | None = None

    partitions: dict[tuple[str, str], list[LookupAnswer | LookupUnavailable | None]] = field(default_factory=dict)
    plain: tuple[str, ...] = ("items",)

    async def read(self, resource: str, key: str) -> LookupAnswer | None:
        (answer,) = await self.read_many([(resource, key)])
        assert not isinstance(answer, LookupUnavailable)
        return answer

    def keys_of(self, resource: str) -> LookupKeys:
        if isinstance(self.failure, UnknownLookup):
            raise self.failure
        return "plain" if resource in self.plain else "user"

    async def read_many(self, questions: Sequence[tuple[str, str]]) -> list[LookupAnswer | LookupUnavailable | None]:
        self.asked += [question for question in questions if question[0] != "sessions"]
        if isinstance(self.failure, LookupUnavailable):
            return [self.failure] * len(questions)
        if self.failure is not None:
            raise self.failure
        return [self.answers.get(question) for question in questions]

    async def read_partitions(self, resource: str, key: str) -> list[LookupAnswer | LookupUnavailable | None]:
        if self.failure is not None:
            raise self.failure
        return self.partitions[resource, key]


@dataclass
class FakeDeadLetters:
    """``DeadLetters`` that answers what a test puts in; ``failure`` is raised instead."""

    summaries: list[QueueSummary] = field(default_factory=list)
    page: Page = field(default_factory=lambda: Page((), None, 0))
    record_found: DeadLetterRecord | None = None
    asked: list[object] = field(default_factory=list)
    failure: Exception | None = None

    async def queues(self) -> list[QueueSummary]:
        self._note("queues")
        return self.summaries

    async def records(self, queue: str, limit: int = 50, cursor: str | None = None, filters: Filters | None = None) -> Page:
        self._note((queue, limit, cursor, filters))
        return self.page

    async def record(self, record_id: str) -> DeadLetterRecord | None:
        self._note(record_id)
        return self.record_found

    def _note(self, question: object) -> None:
        self.asked.append(question)
        if self.failure is not None:
            raise self.failure


@dataclass
class FakeBreakers:
    """``BreakerControl`` that notes whom it closed; ``known`` says what each was before."""

    known: dict[LaneId, BreakerStatus] = field(default_factory=dict)
    closed: list[LaneId] = field(default_factory=list)

    def close(self, lane: LaneId) -> BreakerStatus:
        self.closed.append(lane)
        return self.known[lane]


@dataclass
class FakeReferences:
    """``References`` that knows the table ``users``; ``failure`` is raised after it was told."""

    told: list[tuple[str, list[str]]] = field(default_factory=list)
    failure: Exception | None = None

    async def invalidate(self, table: str, keys: list[str]) -> None:
        if table != "users":
            raise UnknownReference(table, ["users"])
        self.told.append((table, keys))
        if self.failure is not None:
            raise self.failure


@dataclass
class Sidecar:
    """One sidecar, the fakes behind it, and a client in front of it."""

    app: FastAPI
    client: httpx.AsyncClient
    engine: FakeEngine
    lookups: FakeLookups
    dead_letters: FakeDeadLetters
    degraded: list[str]
    watchdog: FakeWatchdog
    breakers: FakeBreakers
    references: FakeReferences

    async def get(self, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """GET ``path``."""
        return await self.client.get(path, headers=headers)

    async def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> httpx.Response:
        """POST ``body`` as JSON."""
        return await self.client.post(path, json=body, headers=headers)


def client_of(app: ASGIApp, raise_app_exceptions: bool = True) -> httpx.AsyncClient:
    """A client that calls ``app`` directly, by a loopback name."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=raise_app_exceptions)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080")


def assert_problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    """``answer`` is RFC 9457 problem details of that kind; gives its members."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["type"] == f"urn:veltrix:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == answer.request.url.path
    return body


def dead_letter(**changes: Any) -> DeadLetterRecord:
    """A dead letter of a truncated event."""
    values: dict[str, Any] = {
        "topic": "dlq.veltrix.interactions",
        "partition": 2,
        "offset": 7,
        "timestamp_ms": 1_700_000_000_000,
        "key": b"user-1",
        "value": b'{"type":"',
        "headers": (("trace", b"abc"),),
        "dlq_id": "interactions:2:41",
        "source_topic": "interactions",
        "source_partition": 2,
        "source_offset": 41,
        "group": "veltrix",
        "delivery_count": 1,
        "message": "unexpected end",
        "disposition": "invalid",
        "stage": "decode",
        "reason": "bad_json",
        "fingerprint": "0123456789abcdef",
        "exception_class": "ValueError",
        "stacktrace": "Traceback ...",
        "failed_at_ms": 1_700_000_000_000,
        "first_failed_at_ms": 1_700_000_000_000,
        "original_timestamp_ms": 1_699_999_990_000,
        "original_timestamp_type": "CreateTime",
        "app": "veltrix",
        "app_version": "1.2.3",
        "host": "w1",
        "attempts": (Attempt("2023-11-14T22:13:20.000Z", "decode", "ValueError"),),
        "replay_count": 0,
        "replay_job": None,
        "edited": None,
        "value_bytes": None,
    }
    return DeadLetterRecord(**(values | changes))


def new_sidecar(settings: Settings) -> Sidecar:
    """A sidecar with metrics of one unit."""
    engine, lookups, dead_letters, degraded = FakeEngine(), FakeLookups(), FakeDeadLetters(), list[str]()
    registry = CollectorRegistry()
    catalogue = Catalogue(registry)
    pipeline = PipelineMetrics(catalogue)
    pipeline.unit_done(unit())
    EngineMetrics(catalogue, engine)
    watchdog, breakers, references = FakeWatchdog(), FakeBreakers(), FakeReferences()
    loop_lag = LoopLagMonitor(catalogue)
    app = create_sidecar(
        SidecarDeps(
            settings,
            engine,
            lookups,
            dead_letters,
            registry,
            loop_lag,
            LiveNumbers(pipeline, engine),
            lambda: degraded,
            watchdog,
            breakers,
            references,
        )
    )
    return Sidecar(app, client_of(app), engine, lookups, dead_letters, degraded, watchdog, breakers, references)


@pytest.fixture(scope="session")
def shared_sidecar() -> Sidecar:
    """Built once: routes and models take 30 ms, a hundred tests need them."""
    return new_sidecar(load_settings(app_version="1.2.3"))


@pytest.fixture
async def sidecar(shared_sidecar: Sidecar) -> AsyncIterator[Sidecar]:
    """On loopback, as by default. Its fakes are as new; only its HTTP metrics are not."""
    one = shared_sidecar
    for fake in (one.engine, one.lookups, one.dead_letters, one.watchdog, one.breakers, one.references):
        vars(fake).update(vars(type(fake)()))
    shared_sidecar.degraded.clear()
    async with client_of(shared_sidecar.app) as client:
        shared_sidecar.client = client
        yield shared_sidecar


@pytest.fixture
async def new_sidecars() -> AsyncIterator[Callable[..., Sidecar]]:
    """Makes sidecars that share nothing, with the settings it is called with."""
    made: list[Sidecar] = []

    def make(**settings: Any) -> Sidecar:
        made.append(new_sidecar(load_settings(**settings)))
        return made[-1]

    yield make
    for one in made:
        await one.client.aclose()

"""Real services for integration tests: one Kafka and one Redis for the whole run, started by the first test that asks.

Isolation. ``topics()`` gives a test settings with an ``app_id`` of its own, hence its own consumer group,
changelog and dead letter topics. The names of the source and of the enriched topic are fixed, so these two are
deleted and made anew (0.2 s in KRaft, and their committed offsets go with them), and Redis is emptied. A test
that stops or breaks a service takes ``own_kafka`` or ``own_redis``: services that nobody shares.
Workers are killed at the end of their test, whatever happened.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from pydantic import SecretStr

from app.settings import ENV_PREFIX, Settings, load_settings
from app.topics import all_topics
from deploy.local.kafka import LocalKafka
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import WorkerProcess
from tests.integration.slowness import slowness
from tests.integration.topic_admin import recreate

HERE = Path(__file__).parent
TEST_TIMEOUT_S = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is an integration test, with time for brokers and workers to start."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)
            if "limit" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.promise)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """The broker that tests share. Do not stop it: take ``own_kafka``."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """The Redis that tests share. Do not stop it: take ``own_redis``."""
    with LocalRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker for this test alone: stop, kill and restart it."""
    with LocalKafka(tmp_path / "kafka") as broker:
        yield broker


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis for this test alone: stop, kill and restart it."""
    with LocalRedis(tmp_path / "redis") as server:
        yield server


class MakeTopics(Protocol):
    """Settings of a fresh deployment; keyword arguments are settings (``partitions=2``, ``kafka_bootstrap=...``)."""

    def __call__(self, *, create: bool = True, **overrides: Any) -> Settings: ...


class StartWorker(Protocol):
    """Start a worker and wait until it is ready (``ready=False``: return at once).

    ``run_dir`` defaults to a new directory; give the one of an earlier worker to restart on its state.
    Keyword arguments are settings that win over ``settings``.
    """

    def __call__(
        self, settings: Settings, *, run_dir: Path | None = None, ready: bool = True, **overrides: Any
    ) -> WorkerProcess: ...


class Limit(Protocol):
    """Seconds that something may take: the promise, or how long it takes when the mechanism behind it is broken."""

    def __call__(self, promised_s: float, *, broken_s: float) -> float: ...


@pytest.fixture
def limit(request: pytest.FixtureRequest) -> Limit:
    """Promises in seconds are for a quiet machine, hence for ``make test-faults``. Elsewhere the law is the mechanism."""
    is_quiet = "faults" in (request.config.option.markexpr or "")

    def seconds(promised_s: float, *, broken_s: float) -> float:
        return promised_s * slowness() if is_quiet else broken_s

    return seconds


@pytest.fixture
def topics(request: pytest.FixtureRequest) -> MakeTopics:
    """Make a fresh deployment: its own app_id, all its topics (``create=False``: none), 4 partitions, an empty Redis.

    The shared services start only if no ``kafka_bootstrap`` / ``redis_url`` is given.
    """

    def make(*, create: bool = True, **overrides: Any) -> Settings:
        if "kafka_bootstrap" not in overrides:
            overrides["kafka_bootstrap"] = request.getfixturevalue("kafka").bootstrap
        if "redis_url" not in overrides:
            server: LocalRedis = request.getfixturevalue("redis")
            server.flush()
            overrides["redis_url"] = server.url
        defaults = {"app_id": f"t-{uuid.uuid4().hex[:12]}", "partitions": 4}
        settings = load_settings(**(defaults | overrides))
        recreate(settings.kafka_bootstrap, all_topics(settings), create=create)
        return settings

    return make


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers; all are killed when the test ends."""
    started: list[WorkerProcess] = []

    def start(settings: Settings, *, run_dir: Path | None = None, ready: bool = True, **overrides: Any) -> WorkerProcess:
        name = f"worker-{len(started) + 1}"
        one = WorkerProcess(run_dir or tmp_path / name, environment(settings) | environment_of(overrides), name)
        started.append(one)
        one.start()
        if ready:
            one.wait_ready()
        return one

    yield start
    for one in started:
        one.kill9()


def environment(settings: Settings) -> dict[str, str]:
    """``VELTRIX_*`` variables that make a worker read these settings again (port and data directory are its own)."""
    own = {"sidecar_port", "data_dir"}
    return environment_of({name: getattr(settings, name) for name in settings.model_fields_set - own})


def environment_of(values: dict[str, Any]) -> dict[str, str]:
    """Settings by name as environment variables."""
    return {f"{ENV_PREFIX}{name.upper()}": _plain(value) for name, value in values.items() if value is not None}


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)

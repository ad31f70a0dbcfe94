"""Fixtures of the fault suite: real services, both guarantees, seeds and repetitions.

``FAULT_SEED`` repeats a run (the seed of each test is derived from it and the test's id, and printed),
``FAULT_REPEAT`` runs every fault that often, ``FAULT_GUARANTEES`` narrows the guarantees (comma-separated),
``FAULT_RESULTS`` is the file that results are appended to (default ``var/faults/results.jsonl``).
``pytest`` runs the quick subset; ``-m faults`` runs all, ``-m faults_quick`` what is quick under any guarantee.
"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.settings import Settings
from deploy.local.kafka import LocalKafka
from deploy.local.ports import free_ports
from deploy.local.redis import LocalRedis
from tests.faults.checker import Guarantee, Promise, Verdict
from tests.faults.harness import SESSION_TIMEOUT_MS, Scenario
from tests.faults.proxy import TcpProxy
from tests.faults.results import RunResult, append
from tests.integration.conftest import MakeTopics, kafka, own_kafka, own_redis, redis, topics

__all__ = ["kafka", "own_kafka", "own_redis", "redis", "topics"]

HERE = Path(__file__).parent
TEST_TIMEOUT_S = 600
GUARANTEES = tuple(os.environ.get("FAULT_GUARANTEES", "at_least_once,exactly_once").split(","))
REPEAT = int(os.environ.get("FAULT_REPEAT", "1"))
BASE_SEED = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1 << 31))
OUTCOME = pytest.StashKey[pytest.TestReport]()


def pytest_report_header(config: pytest.Config) -> str:
    """The seed that repeats this run."""
    return f"faults: FAULT_SEED={BASE_SEED} FAULT_REPEAT={REPEAT}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take ``scenario`` are fault tests: services, time, and left out unless quick or asked for."""
    asked = "faults" in (config.option.markexpr or "")
    left_out = []
    for item in [item for item in items if HERE in item.path.parents]:
        if "scenario" in getattr(item, "fixturenames", ()) or item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.integration)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_TIMEOUT_S))
            if not (asked or is_quick(item)):
                left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def is_quick(item: pytest.Item) -> bool:
    """Whether a test belongs to the quick subset: marked ``faults_quick``, with arguments under these guarantees alone."""
    marker = item.get_closest_marker("faults_quick")
    if marker is None or not marker.args:
        return marker is not None
    return item.callspec.params.get("guarantee") in marker.args if isinstance(item, pytest.Function) else False


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``FAULT_REPEAT`` times the same test, each with a seed of its own."""
    if "scenario" in metafunc.fixturenames and REPEAT > 1:
        metafunc.parametrize("repetition", range(REPEAT), indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> Any:
    """Keep the outcome for the results file, and print the seed beside a failure."""
    report = yield
    if report.when == "call":
        item.stash[OUTCOME] = report
        if report.failed and "scenario" in item.fixturenames:
            report.sections.append(("seed", f"FAULT_SEED={BASE_SEED} repeats this run"))
    return report


class MakeScenario(Protocol):
    """A fresh deployment for one fault: empty topics, an empty Redis, an app_id of its own.

    ``promised`` and ``fault`` are rows of docs/guarantees.md; what may repeat is said there by itself. ``may_repeat`` is
    what at_least_once allows; exactly_once never does. ``settings``: made by the test itself (a cluster); else ``overrides`` are settings as in ``topics()``.
    """

    def __call__(
        self, fault: str, guarantee: Guarantee, promised: str, *, may_repeat: bool = True, settings: Settings | None = None,
        **overrides: Any,
    ) -> Scenario: ...  # fmt: skip


@pytest.fixture(params=GUARANTEES)
def guarantee(request: pytest.FixtureRequest) -> Guarantee:
    """Every fault is met under both guarantees."""
    value: Guarantee = request.param
    return value


@pytest.fixture
def repetition(request: pytest.FixtureRequest) -> int:
    """Number of this repetition, from 0."""
    return int(getattr(request, "param", 0))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Of this test: derived from ``FAULT_SEED`` and the test's id, so that a selection of tests repeats the same."""
    node = request.node.nodeid
    return zlib.crc32(f"{BASE_SEED}:{node}".encode())


@pytest.fixture
def scenario(
    request: pytest.FixtureRequest, topics: MakeTopics, tmp_path: Path, seed: int, repetition: int
) -> Iterator[MakeScenario]:
    """Make scenarios; their workers are killed and their results written when the test ends."""
    made: list[Scenario] = []

    def make(
        fault: str, guarantee: Guarantee, promised: str, *, may_repeat: bool = True, settings: Settings | None = None,
        **overrides: Any,
    ) -> Scenario:  # fmt: skip
        defaults = {"processing_guarantee": guarantee, "kafka_session_timeout_ms": SESSION_TIMEOUT_MS}
        promise = Promise(guarantee, may_repeat and guarantee == "at_least_once", promised)
        one = Scenario(fault, promise, settings or topics(**(defaults | overrides)), tmp_path / f"run-{len(made)}", seed)
        made.append(one)
        print(f"{fault} ({guarantee}): seed {seed}")  # noqa: T201 - pytest shows it beside a failure
        return one

    yield make
    for one in made:
        one.close()
        append(result_of(request, one))


def result_of(request: pytest.FixtureRequest, one: Scenario) -> RunResult:
    """The line of a finished scenario; a test that failed for another reason than the count says which."""
    report = request.node.stash.get(OUTCOME, None)
    verdict = one.verdict or Verdict()
    violations = list(verdict.violations)
    passed = report is not None and report.passed
    if not passed and not violations and report is not None:
        violations.append(str(report.longrepr).strip().splitlines()[-1][:300])
    return RunResult(
        fault=one.fault, guarantee=one.promise.guarantee, seed=BASE_SEED, promised=one.promise.text, passed=passed,
        at=datetime.now(UTC).isoformat(timespec="seconds"), test=request.node.nodeid, may_repeat=one.promise.may_repeat, injections=one.injections, sent=verdict.sent,
        outputs=verdict.outputs, duplicate_outputs=verdict.duplicate_outputs, dead_letters=verdict.dead_letters,
        duplicate_dead_letters=verdict.duplicate_dead_letters, lost=verdict.lost, phantom=verdict.phantom,
        sequence_holes=verdict.sequence_holes, state_differences=verdict.state_differences, resume_s=tuple(one.resume_s),
        exit_statuses=tuple(one.exit_statuses), violations=tuple(violations),
    )  # fmt: skip


@pytest.fixture
def way_to_kafka(tmp_path: Path) -> Iterator[tuple[LocalKafka, TcpProxy]]:
    """A broker, and a proxy in front of its second listener."""
    port = free_ports(1)[0]
    broker = LocalKafka(tmp_path / "kafka", advertised=port)
    with broker, TcpProxy(broker.behind_proxy, port) as proxy:
        yield broker, proxy


@pytest.fixture
def way_to_redis(own_redis: LocalRedis) -> Iterator[TcpProxy]:
    """A proxy in front of a Redis."""
    with TcpProxy(own_redis.port) as proxy:
        yield proxy

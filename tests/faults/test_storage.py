"""Faults of what a worker writes to or reads from: data directory, changelog, source topic, Redis."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from app.engine.guard import EXIT_FATAL, EXIT_REFUSED
from app.topics import ENRICHED, INTERACTIONS, all_topics, dead_letters_of
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import ROOT, clean_environment
from tests.faults import observed
from tests.faults.changelog import refusing_writes
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.harness import SESSION_TIMEOUT_MS, Scenario
from tests.integration.conftest import environment
from tests.integration.topic_admin import recreate

NOTICED_S = 60
"""Until a worker has noticed that a topic under it is another one."""


@pytest.mark.faults_quick("at_least_once")
def test_a_second_worker_on_one_data_directory_is_refused(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "the second is refused with exit status 78 and names the owner; the first does not notice"
    run = scenario("two workers with one data directory", guarantee, promised, may_repeat=False)
    one = run.start("one")
    with run.traffic() as traffic:
        for _ in range(2):
            traffic.wait_sent(600)
            with run.injection():
                two = run.start("two", data_dir=one.run_dir / "data", ready=False)
                assert two.wait(30) == EXIT_REFUSED
        assert f"pid {one.pid}" in two.log.read_text()

    run.verify()


def test_a_changelog_that_refuses_writes_loses_nothing(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "nothing lost, state exact; the worker waits, or exits with 70 and its successor repeats what was not durable"
    run = scenario("changelog topic refuses writes (message too large)", guarantee, promised)
    one = run.start()
    with run.traffic() as traffic:
        for _ in range(3):
            traffic.wait_sent(run.random.randrange(300, 1_200))
            with run.injection():
                with refusing_writes(run.settings):
                    status = one.wait(8)
                if status is not None:
                    run.exit_statuses.append(status)
                    assert status == EXIT_FATAL
                    run.restart()

    run.verify()


def test_a_source_topic_that_was_re_created_is_noticed_and_read_after_a_reset(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = "the worker exits, the next start is refused (78) with the repair command; after it every new record is processed"
    run = scenario("source topic deleted and made anew under the worker", guarantee, promised)
    one = run.start()
    with run.traffic() as traffic:
        traffic.wait_sent(3_000)
    run.wait_committed()
    before = run.truth()
    assert {identity for identity, _, _ in observed.read_outputs(run.settings)} == before.outputs.keys()

    run.injections += 1
    _recreate(run, INTERACTIONS)
    status = one.wait(NOTICED_S)
    assert status in (EXIT_FATAL, EXIT_REFUSED)
    run.exit_statuses.append(status)
    run.restart(ready=False)
    assert one.wait(60) == EXIT_REFUSED
    assert "veltrix reset --to-earliest" in one.log.read_text()

    run.forget_traffic()  # counted above; its outputs would carry the same identities as the new ones
    _recreate(run, ENRICHED, dead_letters_of(run.settings.app_id, INTERACTIONS))
    _reset(run)
    run.restart()
    with run.traffic() as traffic:
        traffic.wait_sent(2_000)

    run.verify()


def _recreate(run: Scenario, *names: str) -> None:
    recreate(run.settings.kafka_bootstrap, [topic for topic in all_topics(run.settings) if topic.name in names])


def _reset(run: Scenario) -> None:
    time.sleep(SESSION_TIMEOUT_MS / 1000 + 1)  # until the group has forgotten the worker that exited: it did not say goodbye
    own = {"VELTRIX_DATA_DIR": str(run.workers["one"].run_dir / "data")}
    command = [sys.executable, "-m", "app.cli.main", "reset", "--to-earliest", "--yes"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment() | environment(run.settings) | own,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _killed(run: Scenario, server: LocalRedis) -> None:
    server.kill()
    run.pause(0.5, 4.0)
    server.start()


def _frozen(run: Scenario, server: LocalRedis) -> None:
    with run.frozen(server.pid):
        run.pause(1.0, 5.0)


@pytest.mark.parametrize(
    ("what", "break_it"),
    [
        pytest.param("Redis killed and restarted empty", _killed, id="killed", marks=pytest.mark.faults_quick("at_least_once")),
        pytest.param("Redis frozen (SIGSTOP)", _frozen, id="frozen"),
    ],
)
def test_a_broken_redis_never_stops_the_stream_and_catches_up(
    scenario: MakeScenario, guarantee: Guarantee, own_redis: LocalRedis, what: str, break_it: Callable[[Scenario, LocalRedis], None]
) -> None:
    promised = "nothing lost, events flow on, and Redis holds every user's newest value soon after its return"
    run = scenario(what, guarantee, promised, may_repeat=False, redis_url=own_redis.url)
    run.start()
    with run.traffic() as traffic:
        for _ in range(3):
            traffic.wait_sent(600)
            with run.injection():
                break_it(run, own_redis)
        traffic.wait_sent(600)

    run.verify()


def test_events_flow_while_redis_is_away(scenario: MakeScenario, guarantee: Guarantee, own_redis: LocalRedis) -> None:
    run = scenario("Redis away for long", guarantee, "events flow on at their rate", may_repeat=False, redis_url=own_redis.url)
    run.start()
    with run.traffic() as traffic:
        traffic.wait_sent(600)
        own_redis.kill()
        began = time.monotonic()
        with run.injection(timeout_s=10):  # everything sent before the kill, and then what was sent without Redis
            traffic.wait_sent(3_000)
        run.wait_committed(timeout_s=10)
        assert time.monotonic() - began < 20
        own_redis.start()

    run.verify()

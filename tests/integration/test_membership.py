"""Workers that join, leave, die, restart and collide: who processes what, after how long, and who is disturbed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from aiokafka import AIOKafkaConsumer
from typer.testing import CliRunner

from app.cli.main import app as cli
from app.engine import membership
from app.engine.assignor import MemberAssignor
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, all_topics
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import Limit, MakeTopics, StartWorker, environment
from tests.integration.topic_admin import recreate

log = logging.getLogger(__name__)

#: Promises of docs/adr/0007-rebalance.md, seconds, for a machine that has a core for each worker.
TAKEN_OVER_S = 15.0
RESUMED_S = 5.0
PAUSE_S = 3.0
WAIT_S = 90.0
#: What these would take without static membership (a session), or with lanes that are not given up (twice the drain timeout).
A_SESSION_S, DRAINS_S = 40.0, 40.0
#: A static member's absence may be longer than the promise on a machine that runs other tests too.
PATIENT: dict[str, Any] = {"kafka_session_timeout_ms": 45_000}


@contextmanager
def traffic(settings: Settings, count: int, tag: str, rate: float = 1_000, sent: truth.Sent | None = None) -> Iterator[truth.Sent]:
    """Send ``count`` events in the background; all are sent when the block ends. ``sent``: what was sent before them."""
    sent, events = truth.Sent() if sent is None else sent, truth.clicks(count, tag)
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": rate})
    sender.start()
    try:
        yield sent
    finally:
        sender.join()


def wait_until(is_done: Callable[[], bool], timeout_s: float = WAIT_S) -> float:
    """Seconds until it was; fails after ``timeout_s``."""
    started = time.monotonic()
    while not is_done():
        assert time.monotonic() - started < timeout_s, "not within the time"
        time.sleep(0.02)
    return time.monotonic() - started


def consumed(one: WorkerProcess) -> dict[int, int]:
    """Records consumed, by partition, of the lanes that this worker has now."""
    try:
        return {lane["partition"]: lane["consumed"] for lane in truth.lanes(one)}
    except OSError:
        return {}


def share(workers: list[WorkerProcess]) -> list[int]:
    return [len(consumed(one)) for one in workers]


def metric(one: WorkerProcess, name: str) -> float:
    lines = one.get("/metrics")[1].decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def rebalances(one: WorkerProcess) -> tuple[int, float]:
    """How often this worker's lanes were stopped for a rebalance, and for how many seconds in all."""
    return int(metric(one, "veltrix_rebalances_total")), metric(one, "veltrix_rebalance_seconds_total")


def moves_on(one: WorkerProcess, partitions: set[int], timeout_s: float = WAIT_S) -> float:
    """Seconds until this worker has these partitions and has processed something of each."""
    started = time.monotonic()
    first: dict[int, int] = {}
    while True:
        now = consumed(one)
        for partition in partitions & now.keys():
            first.setdefault(partition, now[partition])
        if all(now.get(partition, -1) > first.get(partition, now.get(partition, 0)) for partition in partitions):
            return time.monotonic() - started
        assert time.monotonic() - started < timeout_s, f"{now} of {partitions}"
        time.sleep(0.02)


@pytest.mark.faults  # test_standby.py meets the same limit in half the time
def test_the_partitions_of_a_killed_worker_run_elsewhere_within_15_s(topics: MakeTopics, worker: StartWorker, limit: Limit) -> None:
    settings = topics()
    first, second = worker(settings), worker(settings)
    wait_until(lambda: share([first, second]) == [2, 2])
    allowed_s = 10 + limit(TAKEN_OVER_S - 10, broken_s=DRAINS_S)  # 10 s are the session timeout

    with traffic(settings, 18_000, "kill") as sent:
        time.sleep(2)
        first.kill9()
        seconds = moves_on(second, {0, 1, 2, 3})

    log.info("measured: taken over %.1f s after kill -9 (allowed %.1f s)", seconds, allowed_s)
    assert seconds <= allowed_s
    truth.wait_consumed([second], 18_000)
    truth.assert_exact(settings, sent)


@pytest.mark.parametrize("how", ["kill9", "terminate"])
def test_a_restarted_static_member_resumes_within_5_s_and_disturbs_nobody(
    how: str, topics: MakeTopics, worker: StartWorker, tmp_path: Path, limit: Limit
) -> None:
    settings = topics(**PATIENT)
    first = worker(settings, run_dir=tmp_path / "disk", group_instance_id="pod-0")
    second = worker(settings, group_instance_id="pod-1")
    wait_until(lambda: share([first, second]) == [2, 2])
    mine, before = set(consumed(first)), rebalances(second)
    allowed_s = limit(RESUMED_S, broken_s=A_SESSION_S)

    with traffic(settings, 12_000, how) as sent:
        time.sleep(2)
        getattr(first, how)()
        started = time.monotonic()
        first = worker(settings, run_dir=tmp_path / "disk", group_instance_id="pod-0", ready=False)
        moves_on(first, mine)
        seconds = time.monotonic() - started

    log.info("measured: static member after %s resumed %.1f s after its start (allowed %.1f s)", how, seconds, allowed_s)
    assert seconds <= allowed_s
    assert rebalances(second) == before, "the other worker was disturbed"
    truth.wait_consumed([first, second], 12_000)
    outcome = truth.assert_exact(settings, sent)
    if how == "terminate":
        assert outcome.repeated == 0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_of_two_holders_of_one_id_the_older_one_ends_and_says_why(guarantee: str, topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(processing_guarantee=guarantee)
    first = worker(settings, group_instance_id="pod-0")

    with traffic(settings, 10_000, "two") as sent:
        time.sleep(1)
        second = worker(settings, group_instance_id="pod-0")
        assert first.wait(10) == 70
        time.sleep(1)
    if guarantee == "at_least_once" and not second.is_running():
        # The older one wrote to the changelog once more before it knew: the younger one cannot tell who is right.
        assert "another worker writes to it too" in second.log.read_text()
        second = worker(settings, run_dir=second.run_dir, group_instance_id="pod-0")

    log = first.log.read_text()
    assert "another worker uses group_instance_id pod-0" in log
    assert "VELTRIX_GROUP_INSTANCE_ID" in log
    truth.wait_consumed([second], 10_000)
    truth.assert_exact(settings, sent)
    assert second.is_running()


def test_a_static_worker_that_was_away_too_long_ends_instead_of_joining_again(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(kafka_session_timeout_ms=6_000)
    first, second = worker(settings, group_instance_id="pod-0"), worker(settings, group_instance_id="pod-1")
    wait_until(lambda: share([first, second]) == [2, 2])
    os.kill(first.pid, signal.SIGSTOP)
    try:
        with traffic(settings, 8_000, "zombie"):
            wait_until(lambda: len(consumed(second)) == 4)
    finally:
        os.kill(first.pid, signal.SIGCONT)

    assert first.wait(10) == 70
    assert "stood still for" in first.log.read_text()  # its own fence is quicker than the broker's answer


def test_a_static_member_that_stopped_keeps_its_partitions_until_it_is_drained(
    topics: MakeTopics, worker: StartWorker, limit: Limit
) -> None:
    settings = topics(**PATIENT)
    first, second = worker(settings, group_instance_id="pod-0"), worker(settings, group_instance_id="pod-1")
    wait_until(lambda: share([first, second]) == [2, 2])
    mine = set(consumed(first))
    assert first.terminate() == 0
    time.sleep(3)
    assert share([second]) == [2]

    allowed_s = limit(PAUSE_S, broken_s=A_SESSION_S)
    result = veltrix(settings, "drain", "--instance", "pod-0", "--yes", "--json")
    seconds = wait_until(lambda: share([second]) == [4])

    log.info("measured: partitions of a drained member run %.1f s after the command (allowed %.1f s)", seconds, allowed_s)
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    assert set(done["released"][INTERACTIONS]) == mine
    assert (done["others"], done["state"]) == (1, "Stable")
    assert seconds <= allowed_s
    assert veltrix(settings, "drain", "--instance", "pod-0", "--yes").exit_code == 1


def test_draining_a_running_worker_is_refused_and_when_forced_ends_it(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(**PATIENT)
    one = worker(settings, group_instance_id="pod-0")
    own = {
        "VELTRIX_GROUP_INSTANCE_ID": "pod-0",
        "VELTRIX_DATA_DIR": str(one.run_dir / "data"),
        "VELTRIX_SIDECAR_PORT": str(one.port),
    }

    refused = veltrix(settings, "drain", "--yes", **own)

    assert refused.exit_code == 1
    assert f"the worker with pid {one.pid} runs" in refused.stderr
    assert one.is_ready()

    assert veltrix(settings, "drain", "--yes", "--force", **own).exit_code == 0
    assert one.wait(10) == 70
    assert "thrown out of group" in one.log.read_text()


def test_a_worker_with_another_guarantee_is_refused_by_the_group(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics()
    first = worker(settings)

    second = worker(settings, ready=False, processing_guarantee="exactly_once")

    assert second.wait(WAIT_S) == 78
    assert "processing_guarantee and transaction_groups must be the same" in second.log.read_text()
    assert first.is_ready()


def test_under_exactly_once_a_worker_without_a_group_waits_and_takes_over(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(processing_guarantee="exactly_once", transaction_groups=2)
    workers = [worker(settings) for _ in range(3)]
    wait_until(lambda: sorted(share(workers)) == [0, 2, 2])
    shares = [set(consumed(one)) for one in workers]
    assert {frozenset(mine) for mine in shares} == {frozenset({0, 2}), frozenset({1, 3}), frozenset()}
    surplus, lost = workers[shares.index(set())], workers[next(n for n, mine in enumerate(shares) if mine)]

    lost.kill9()

    wait_until(lambda: consumed(surplus).keys() == shares[workers.index(lost)])
    with traffic(settings, 2_000, "surplus") as sent:
        pass
    truth.wait_consumed([one for one in workers if one is not lost], 2_000)
    truth.assert_exact(settings, sent)


async def test_a_static_member_that_reads_more_topics_than_before_gets_them(topics: MakeTopics) -> None:
    settings = topics(redis_url="", group_instance_id="pod-0", **PATIENT)
    async with reader(settings, {INTERACTIONS}) as old:
        await assigned_to(old, {INTERACTIONS})

    async with reader(settings, {INTERACTIONS, ENRICHED}) as new:  # within the session: the broker repeats the old assignment
        await assigned_to(new, {INTERACTIONS, ENRICHED})


async def test_a_topic_that_the_leader_did_not_know_at_first_is_read_soon_after_it_is_there(topics: MakeTopics) -> None:
    settings = topics(create=False, redis_url="")
    async with reader(settings, {INTERACTIONS}) as one:
        async with asyncio.timeout(WAIT_S):
            while one._coordinator.generation < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert one.assignment() == set()

        await asyncio.to_thread(recreate, settings.kafka_bootstrap, all_topics(settings))

        await assigned_to(one, {INTERACTIONS})  # without asking: after aiokafka's five minutes


@asynccontextmanager
async def reader(settings: Settings, names: set[str]) -> AsyncIterator[AIOKafkaConsumer]:
    """A member as the worker has it: our assignor, our watch over its membership."""
    tables = SimpleNamespace(changelog_topics=set(), data={})
    app: Any = SimpleNamespace(tables=tables, engine=SimpleNamespace(settings=settings), tracer=None, sensors=Mock())
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap,
        group_id=settings.app_id,
        group_instance_id=settings.group_instance_id or None,
        session_timeout_ms=settings.kafka_session_timeout_ms,
        partition_assignment_strategy=[MemberAssignor(app)],
    )
    await consumer.start()
    membership.install(consumer, lambda reason, exc: pytest.fail(reason), pytest.fail)
    consumer.subscribe(sorted(names))
    try:
        yield consumer
    finally:
        await consumer.stop()


async def assigned_to(consumer: AIOKafkaConsumer, names: set[str]) -> None:
    async with asyncio.timeout(WAIT_S):
        while {tp.topic for tp in consumer.assignment()} != names:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def veltrix(settings: Settings, *arguments: str, **variables: str) -> Any:
    """The command with these settings and nothing of our own environment."""
    clean = {name: None for name in os.environ if name.startswith("VELTRIX_")}
    return CliRunner().invoke(
        cli, list(arguments), env={**clean, **environment(settings), "VELTRIX_SIDECAR_PORT": "0", **variables}
    )


def test_the_pause_of_a_rebalance_is_short(topics: MakeTopics, worker: StartWorker, limit: Limit) -> None:
    settings = topics()
    first = worker(settings)
    allowed_s = limit(PAUSE_S, broken_s=DRAINS_S)

    with traffic(settings, 14_000, "join") as sent:
        time.sleep(2)
        before = rebalances(first)
        second = worker(settings)
        wait_until(lambda: share([first, second]) == [2, 2])
        joined = rebalances(first)
        assert second.terminate() == 0
        wait_until(lambda: len(consumed(first)) == 4)
        left = rebalances(first)

    join, leave = joined[1] - before[1], left[1] - joined[1]
    log.info("measured: pause of the worker that stays: join %.2f s, leave %.2f s (allowed %.1f s)", join, leave, allowed_s)
    assert (joined[0], left[0]) == (before[0] + 1, before[0] + 2)
    assert max(join, leave) <= allowed_s
    truth.wait_consumed([first], 14_000)
    assert truth.assert_exact(settings, sent).repeated == 0

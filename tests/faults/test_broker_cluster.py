"""Three brokers, replication factor 3, min.insync.replicas 2: one may go at any moment; with two gone everything waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.topics import INTERACTIONS
from deploy.local.redis import LocalRedis
from tests.faults.checker import Guarantee
from tests.faults.cluster_support import replicated
from tests.faults.conftest import MakeScenario
from tests.faults.endurance import Endurance, restart_if_it_gave_up
from tests.faults.harness import Scenario
from tests.faults.observed import wait_group_answers
from tests.kafka_cluster import LocalCluster

ONE_LOST = "the worker stays up and goes on with the two other brokers by itself; nothing lost, state exact"
EXITS = "; it may exit with 70 when a transaction cannot be ended (membership expired, no coordinator for 20 s), and its successor goes on"
NO_ISR = "nothing is acknowledged and nothing is given up: the worker waits with bounded memory and goes on by itself once two brokers are back; nothing lost, state exact"


Deploy = Callable[[str, str], Scenario]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three brokers for this test alone."""
    with LocalCluster(tmp_path / "cluster") as nodes:
        yield nodes


@pytest.fixture
def deploy(cluster: LocalCluster, scenario: MakeScenario, guarantee: Guarantee, redis: LocalRedis) -> Deploy:
    """Makes the scenario of a fault on the three brokers."""

    def make(fault: str, promised: str) -> Scenario:
        redis.flush()
        settings = replicated(cluster.bootstrap, redis_url=redis.url, processing_guarantee=guarantee)
        cluster.wait_in_sync(INTERACTIONS)
        return scenario(fault, guarantee, promised, settings=settings)

    return make


def test_the_leader_of_most_partitions_is_killed_and_returns(cluster: LocalCluster, deploy: Deploy) -> None:
    run = deploy("3 brokers, leader killed (kill -9)", ONE_LOST)
    with run.traffic(), Endurance(run.start()):
        run.pause(1.0, 3.0)
        leader = cluster.busiest(INTERACTIONS)
        with run.injection():
            cluster.node(leader).kill()
            cluster.wait_led(INTERACTIONS, sorted({1, 2, 3} - {leader}))
            wait_group_answers(run.settings)
        cluster.node(leader).start()
        cluster.wait_in_sync(INTERACTIONS)

    run.verify()


def test_the_leader_of_most_partitions_stands_still(cluster: LocalCluster, deploy: Deploy, guarantee: Guarantee) -> None:
    """If it is the group's coordinator too, the worker loses its membership with a transaction open, and may not guess."""
    may_exit = guarantee == "exactly_once"
    run = deploy("3 brokers, leader SIGSTOP 12 s", ONE_LOST + (EXITS if may_exit else ""))
    with run.traffic(), Endurance(run.start(), may_exit=may_exit):
        run.pause(1.0, 3.0)
        with run.injection():
            with run.frozen(cluster.node(cluster.busiest(INTERACTIONS)).pid):
                time.sleep(12)  # twice the session of a broker: it loses its leaderships, and does not know
            if may_exit:
                restart_if_it_gave_up(run)
        cluster.wait_in_sync(INTERACTIONS)
        wait_group_answers(run.settings)

    run.verify()


def test_every_broker_is_restarted_one_after_another(cluster: LocalCluster, deploy: Deploy) -> None:
    run = deploy("3 brokers, rolling restart", ONE_LOST)
    with run.traffic(), Endurance(run.start()):
        for number in (1, 2, 3):
            run.pause(0.5, 1.0)
            with run.injection():
                cluster.node(number).restart()
                cluster.wait_in_sync(INTERACTIONS)
                wait_group_answers(run.settings)

    run.verify()


def test_without_enough_replicas_everything_waits(cluster: LocalCluster, deploy: Deploy, guarantee: Guarantee) -> None:
    """Under exactly_once for a bounded time: nobody coordinates transactions, and an attempt is not repeated for ever."""
    may_exit = guarantee == "exactly_once"
    run = deploy("3 brokers, two killed for 10 s (no ISR)", NO_ISR + (EXITS if may_exit else ""))
    with run.traffic(), Endurance(run.start(), may_exit=may_exit):
        run.pause(1.0, 3.0)
        doomed = run.random.sample([1, 2, 3], 2)
        with run.injection():
            for number in doomed:
                cluster.node(number).kill()
            time.sleep(10)
            for number in doomed:
                cluster.node(number).launch()
            for number in doomed:
                cluster.node(number).wait_ready()
            cluster.wait_in_sync(INTERACTIONS)
            wait_group_answers(run.settings)
            if may_exit:
                restart_if_it_gave_up(run)

    run.verify()

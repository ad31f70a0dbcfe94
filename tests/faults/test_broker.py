"""The only broker goes away or stands still under load: the worker waits, loses nothing, and goes on by itself."""

from __future__ import annotations

import time

from deploy.local.kafka import LocalKafka
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.endurance import Endurance
from tests.faults.observed import wait_group_answers

PROMISED = (
    "the worker stays up with bounded memory and goes on by itself; nothing lost, state exact; no output repeats, since no batch is "
    "given up"
)


def test_a_killed_broker_comes_back(scenario: MakeScenario, guarantee: Guarantee, own_kafka: LocalKafka) -> None:
    run = scenario("broker killed (kill -9) and restarted", guarantee, PROMISED, kafka_bootstrap=own_kafka.bootstrap)
    with run.traffic(), Endurance(run.start()):
        for _ in range(2):
            run.pause(1.0, 3.0)
            with run.injection():
                own_kafka.kill()
                run.pause(0.5, 4.0)
                own_kafka.start()
                wait_group_answers(run.settings)

    run.verify()


def test_a_broker_that_is_stopped_and_started_is_no_fault(
    scenario: MakeScenario, guarantee: Guarantee, own_kafka: LocalKafka
) -> None:
    run = scenario("broker restarted (SIGTERM)", guarantee, PROMISED, kafka_bootstrap=own_kafka.bootstrap)
    with run.traffic(), Endurance(run.start()):
        run.pause(1.0, 2.0)
        with run.injection():
            own_kafka.restart()
            wait_group_answers(run.settings)

    run.verify()


def test_a_broker_that_stands_still_for_five_seconds(scenario: MakeScenario, guarantee: Guarantee, own_kafka: LocalKafka) -> None:
    run = scenario("broker SIGSTOP 5 s", guarantee, PROMISED, kafka_bootstrap=own_kafka.bootstrap)
    with run.traffic(), Endurance(run.start()):
        for _ in range(2):
            run.pause(1.0, 2.0)
            with run.injection(), run.frozen(own_kafka.pid):
                time.sleep(5)

    run.verify()

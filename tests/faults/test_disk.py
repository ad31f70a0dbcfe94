"""Disks that are full: under a worker's data directory, and under the broker's log."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.guard import EXIT_FATAL, EXIT_REFUSED
from deploy.local.kafka import LocalKafka
from deploy.local.worker_process import WorkerProcess
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.endurance import Endurance
from tests.faults.harness import Scenario
from tests.faults.observed import wait_group_answers
from tests.faults.small_disk import KIB, SmallDisk, small_disk

WORKER_PROMISED = (
    "the worker exits with 70, naming directory and cause, and serves nothing wrong; nothing lost, state exact once there is room; what "
    "was not durable repeats with the same bytes (at_least_once)"
)
BROKER_PROMISED = (
    "the broker ends by itself; the worker stays up and goes on by itself once there is room; nothing acknowledged is lost"
)
ENDED_S = 60
DISK_MIB = 24
BROKER_DISK_MIB = 96


def test_a_full_data_directory_ends_the_worker_and_room_heals_it(scenario: MakeScenario, guarantee: Guarantee) -> None:
    run = scenario("disk full under the data directory", guarantee, WORKER_PROMISED)
    data = run.run_dir / "one" / "data"
    with small_disk(data, DISK_MIB) as disk:
        one = run.start()
        with run.traffic() as traffic:
            traffic.wait_sent(1_000)
            disk.fill(leave_kib=200)
            _assert_ended_for_want_of_room(run, one, str(data), "No space left on device")

            run.restart(ready=False)  # a supervisor would, and changes nothing
            status = one.wait(ENDED_S)
            run.exit_statuses.append(status or 0)
            assert status in (EXIT_FATAL, EXIT_REFUSED)

            disk.free()
            with run.injection():
                run.restart()
            traffic.wait_sent(500)
        run.verify()


@pytest.mark.faults_quick("at_least_once")
def test_a_write_that_the_system_refuses_ends_the_worker(scenario: MakeScenario, guarantee: Guarantee) -> None:
    """As above for machines where nobody may mount: no file may grow beyond a size (RLIMIT_FSIZE)."""
    run = scenario("file size limit under the data directory", guarantee, WORKER_PROMISED)
    one = run.start()
    with run.traffic() as traffic:
        traffic.wait_sent(1_000)
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (200 * KIB, 200 * KIB))
        _assert_ended_for_want_of_room(run, one, str(one.run_dir / "data"), "File too large")

        with run.injection():
            run.restart()
        traffic.wait_sent(500)

    run.verify()


def _assert_ended_for_want_of_room(run: Scenario, worker: WorkerProcess, directory: str, cause: str) -> None:
    status = worker.wait(ENDED_S)
    assert status == EXIT_FATAL, f"exit status {status}"
    run.exit_statuses.append(status)
    last = [line for line in worker.log.read_text().splitlines() if "cannot_go_on" in line]
    assert last, "no reason in the log"
    assert directory in last[-1]
    assert cause in last[-1]


@pytest.fixture
def broker_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Room for the broker's log and little more."""
    with small_disk(tmp_path / "kafka" / "logs", BROKER_DISK_MIB) as disk:
        yield disk


@pytest.fixture
def broker(tmp_path: Path, broker_disk: SmallDisk) -> Iterator[LocalKafka]:
    """A broker on the small disk."""
    with LocalKafka(tmp_path / "kafka") as running:
        yield running


def test_a_full_disk_ends_the_broker_and_room_heals_it(
    scenario: MakeScenario, guarantee: Guarantee, broker: LocalKafka, broker_disk: SmallDisk
) -> None:
    run = scenario("disk full under the broker's log", guarantee, BROKER_PROMISED, kafka_bootstrap=broker.bootstrap)
    with run.traffic() as traffic, Endurance(run.start()):
        traffic.wait_sent(1_000)
        with run.injection():
            broker_disk.fill(leave_kib=300)
            assert broker.wait(ENDED_S) not in (None, 0)
            broker_disk.free()
            broker.start()
            wait_group_answers(run.settings)
        traffic.wait_sent(500)

    run.verify()

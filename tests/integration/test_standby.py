"""Warm copies: followed while their owner works, taken over without a restore when it is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import Limit, MakeTopics, StartWorker

WAIT_S = 60.0
SESSION_S = 10.0
#: A rebalance and the tail; with lanes that do not end it would be twice the drain timeout.
TAKEN_OVER_S, DRAINS_S = 5.0, 40.0


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_standby_takes_over_from_a_killed_worker_with_only_the_tail_to_restore(
    topics: MakeTopics, worker: StartWorker, guarantee: str, limit: Limit
) -> None:
    settings, sent = topics(standby_replicas=1, processing_guarantee=guarantee), truth.Sent()
    events = truth.clicks(9_000, "standby")
    first, second = worker(settings, ready=False), worker(settings)
    first.wait_ready()
    _wait(lambda: _lanes(first) == _lanes(second) == 2)
    truth.send(settings, events[:6_000], sent)
    truth.wait_consumed([first, second], 6_000)
    _wait(lambda: _has_logged(second, "standbys_ready"))
    time.sleep(1)  # what was written last is followed within one long poll of the fetch loop
    followed = _restored(second)
    assert followed > 200, "it has followed the first worker's two partitions"

    first.kill9()
    killed = time.monotonic()
    truth.send(settings, events[6_000:], sent)
    truth.wait_consumed([second], 9_000)

    assert time.monotonic() - killed < SESSION_S + limit(TAKEN_OVER_S, broken_s=DRAINS_S)
    assert _restored(second) - followed < 100, "a standby restores its tail, not the whole table"
    truth.assert_exact(settings, sent)


def test_an_active_partition_becomes_standby_and_active_again_on_its_own_disk(
    topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(standby_replicas=1), truth.Sent()
    events = truth.clicks(9_000, "turns")
    first = worker(settings)  # everything is active here
    truth.send(settings, events[:3_000], sent)
    truth.wait_consumed([first], 3_000)

    second = worker(settings, run_dir=tmp_path / "second")  # half of it moves, and stays here as a standby
    _wait(lambda: _lanes(first) == _lanes(second) == 2)
    truth.send(settings, events[3_000:6_000], sent)
    truth.wait_consumed([first, second], 6_000)
    time.sleep(2)
    followed = _restored(first)
    assert second.terminate() == 0
    _wait(lambda: _lanes(first) == 4)
    truth.send(settings, events[6_000:], sent)
    truth.wait_consumed([first], 9_000)

    assert _restored(first) - followed < 100
    truth.assert_exact(settings, sent)


def test_a_lonely_worker_with_standbys_asked_for_works_without(topics: MakeTopics, worker: StartWorker) -> None:
    settings, sent = topics(standby_replicas=2), truth.Sent()
    one = worker(settings)
    truth.send(settings, truth.clicks(1_000, "lonely"), sent)
    truth.wait_consumed([one], 1_000)
    truth.assert_exact(settings, sent)


def _lanes(one: WorkerProcess) -> int:
    try:
        return len(truth.lanes(one)) if one.is_ready() else 0
    except OSError:
        return 0


def _restored(one: WorkerProcess) -> int:
    """Changelog records that went into its tables, in recovery or as a standby."""
    name, metrics = "veltrix_recovery_restored_records_total", one.get("/metrics")[1].decode()
    return int(float(next(line.split()[-1] for line in metrics.splitlines() if line.startswith(name))))


def _has_logged(one: WorkerProcess, event: str) -> bool:
    return event in one.log.read_text(encoding="utf-8")


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)

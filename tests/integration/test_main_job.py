"""The main job on a real Kafka and a real Redis, counted from outside."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from app.settings import Settings
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker


def test_100_000_mixed_events_are_counted_exactly(topics: MakeTopics, worker: StartWorker) -> None:
    settings, sent = topics(), truth.Sent()
    one = worker(settings)

    truth.send(settings, truth.clicks(100_000, "mix", users=5_000), sent)
    truth.wait_consumed([one], 100_000)

    outcome = truth.assert_exact(settings, sent)
    assert outcome.repeated == 0
    kinds = Counter(click.kind for click in sent.clicks)
    bad = sum(count for kind, count in kinds.items() if kind not in ("valid", "duplicate"))
    assert truth.ledger(one) == {
        "consumed": 100_000, "emitted": kinds["valid"], "duplicates": kinds["duplicate"],
        "dead_lettered": bad, "retried": 0, "dropped": 0, "residue": 0,
    }  # fmt: skip
    assert len({reason for reason, _ in sent.bad}) == 6  # every kind of defect was there


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_killed_worker_goes_on_exactly_on_its_disk_and_on_an_empty_one(
    guarantee: str, topics: MakeTopics, worker: StartWorker, tmp_path: Path
) -> None:
    settings, sent = topics(processing_guarantee=guarantee), truth.Sent()
    events = truth.clicks(24_000, "kill")
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 2_000})
    first = worker(settings, run_dir=tmp_path / "disk")
    sender.start()
    time.sleep(2)
    first.kill9()
    second = worker(settings, run_dir=tmp_path / "disk")
    time.sleep(2)
    second.kill9()
    third = worker(settings, run_dir=tmp_path / "empty")
    sender.join()

    truth.wait_consumed([third], len(events))

    outcome = truth.assert_exact(settings, sent)
    assert guarantee == "at_least_once" or outcome.repeated == 0
    assert truth.ledger(third)["residue"] == 0


def test_a_clean_stop_leaves_nothing_to_repeat(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings, sent = topics(), truth.Sent()
    events = truth.clicks(12_000, "stop")
    first = worker(settings, run_dir=tmp_path / "disk")
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 3_000})
    sender.start()
    time.sleep(2)

    assert first.terminate() == 0
    second = worker(settings, run_dir=tmp_path / "disk")
    sender.join()
    truth.wait_consumed([second], len(events))

    assert truth.assert_exact(settings, sent).repeated == 0


def test_a_second_worker_takes_over_its_share_and_gives_it_back(topics: MakeTopics, worker: StartWorker) -> None:
    settings, sent = topics(), truth.Sent()
    events = truth.clicks(30_000, "two")
    first = worker(settings)
    sender = threading.Thread(target=truth.send, args=(settings, events, sent), kwargs={"rate": 2_000})
    sender.start()
    second = worker(settings)
    time.sleep(3)
    assert [len(truth.lanes(one)) for one in (first, second)] == [2, 2]
    assert second.terminate() == 0
    sender.join()

    truth.wait_consumed([first], len(events))

    assert truth.assert_exact(settings, sent).repeated == 0


def test_a_dead_redis_never_stops_the_stream_and_is_caught_up(
    topics: MakeTopics, worker: StartWorker, own_redis: LocalRedis
) -> None:
    settings, sent = topics(redis_url=own_redis.url), truth.Sent()
    one = worker(settings)
    events = truth.clicks(12_000, "redis")
    truth.send(settings, events[:4_000], sent)
    truth.wait_consumed([one], 4_000)
    own_redis.stop()
    truth.send(settings, events[4_000:8_000], sent)
    truth.wait_consumed([one], 8_000)
    user, expected = _busiest(settings)
    assert truth.lookup(one, user)["freshness"]["source"] == "table"
    own_redis.start()
    truth.send(settings, events[8_000:], sent)
    truth.wait_consumed([one], 12_000)

    truth.assert_exact(settings, sent)
    user, expected = _busiest(settings)
    _wait_lookup(one, user, expected)


def test_a_worker_killed_before_redis_heard_of_it_leaves_no_stale_lookup(
    topics: MakeTopics, worker: StartWorker, own_redis: LocalRedis, tmp_path: Path
) -> None:
    settings, sent = topics(redis_url=own_redis.url), truth.Sent()
    first = worker(settings, run_dir=tmp_path / "disk")
    events = truth.clicks(8_000, "stale")
    truth.send(settings, events[:4_000], sent)
    truth.wait_consumed([first], 4_000)
    _wait_lookup(first, *_busiest(settings))
    os.kill(own_redis.pid, signal.SIGSTOP)  # from here on RocksDB knows more than Redis
    try:
        truth.send(settings, events[4_000:], sent)
        truth.wait_consumed([first], 8_000)
        first.kill9()
    finally:
        os.kill(own_redis.pid, signal.SIGCONT)

    second = worker(settings, run_dir=tmp_path / "disk")

    for user, numbers in truth.Outcome.of(settings).sequences.items():
        kind = "a" if user.startswith(b"anon") else "u"
        _wait_lookup(second, f"{kind}:{user.decode()}", len(numbers))


def test_a_wrong_partition_count_is_refused_with_its_cure(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics()
    one = worker(settings, ready=False, partitions=3)

    assert one.wait(30) == 78
    log = one.log.read_text()
    assert "refused_to_start" in log
    assert "must be 3" in log
    assert "VELTRIX_PARTITIONS" in log


def test_missing_topics_are_refused_with_the_command_that_makes_them(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(create=False)
    one = worker(settings, ready=False)

    assert one.wait(30) == 78
    assert "veltrix topics apply" in one.log.read_text()


def test_two_workers_on_one_data_directory_are_refused(topics: MakeTopics, worker: StartWorker, tmp_path: Path) -> None:
    settings = topics()
    first = worker(settings, run_dir=tmp_path / "disk")
    second = worker(settings, data_dir=tmp_path / "disk" / "data", ready=False)

    assert second.wait(30) == 78
    assert f"pid {first.pid}" in second.log.read_text()
    assert first.is_ready()


def _busiest(settings: Settings) -> tuple[str, int]:
    sequences = truth.Outcome.of(settings).sequences
    key, numbers = max(((k, n) for k, n in sequences.items() if not k.startswith(b"anon")), key=lambda pair: len(pair[1]))
    return f"u:{key.decode()}", len(numbers)


def _wait_lookup(one: WorkerProcess, user: str, sequence: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        answer = truth.lookup(one, user)
        if answer["freshness"]["source"] == "redis" and answer["value"]["sequence"] == sequence:
            return
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)

"""What a real worker notices about itself: a flood of poison, a partition that stands still, a pause that was too long."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from confluent_kafka import Producer

from app.engine.guard import EXIT_FATAL
from app.engine.status import LaneStatus
from app.engine.watchdog import EndOffsetClient, EndsUnknown, StallWatchdog
from app.settings import Settings
from app.topics import AGENTS, INTERACTIONS, dead_letters_of
from deploy.local.kafka import LocalKafka
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.telemetry.fakes import lane as lane_status

AGENT = next(iter(AGENTS))


def until(what: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Ask again and again until the answer is true; gives it."""
    deadline = time.monotonic() + timeout_s
    while not (answer := what()):
        assert time.monotonic() < deadline, f"{what} was not true within {timeout_s} s"
        time.sleep(0.1)
    return answer


def poison(settings: Settings, count: int) -> None:
    """Records that no agent can decode."""
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "partitioner": "murmur2_random"})
    for number in range(count):
        producer.produce(INTERACTIONS, b"{", f"user-{number}")
    assert producer.flush(30) == 0


def lane(worker: WorkerProcess) -> dict[str, Any]:
    """The one lane of the source of a worker on one partition; it has a row for each topic that it reads."""
    (row,) = [row for row in json.loads(worker.get("/api/v1/lanes")[1])["lanes"] if row["topic"] == AGENTS[AGENT]]
    return dict(row)


def degraded(worker: WorkerProcess) -> list[str]:
    """What a ready worker says does not work."""
    status, body = worker.get("/readyz")
    assert status == 200, body
    return list(json.loads(body)["degraded"])


def metric(worker: WorkerProcess, name: str) -> float:
    """The largest sample of ``name``: that of the source's lane, where there are lanes."""
    lines = worker.get("/metrics")[1].decode().splitlines()
    return max(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


# -- breaker ------------------------------------------------------------------------------------------


def test_a_flood_of_poison_pauses_the_partition_and_nothing_is_lost(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(partitions=1, unit_max_records=100, breaker_min_events=100, breaker_probe_ms=2_000)
    one, sent = worker(settings), truth.Sent()
    poison(settings, 1_000)

    until(lambda: degraded(one) == ["breaker"])
    held = until(lambda: (row := lane(one))["breaker"]["state"] == "open" and row["paused"] and row)
    assert (held["held_by"], held["paused"]) == ("breaker", True)
    assert held["next_offset"] < 500, "most of it waits in Kafka"
    assert metric(one, "veltrix_breaker_open") == 1
    assert one.get("/livez")[0] == 200
    until(lambda: metric(one, "veltrix_breaker_openings_total") >= 2, 20)  # a probe failed

    answer = httpx.post(f"{one.url}/api/v1/breaker/{AGENT}/0/close", json={"reason": "test"})
    assert answer.json()["was"] in ("open", "half_open")
    tried = lane(one)["next_offset"]
    until(lambda: lane(one)["next_offset"] > tried + 50, 20)  # let through, and opened again by what came

    truth.send(settings, [click for click in truth.clicks(300, "good") if click.kind == "valid"], sent)
    while lane(one)["next_offset"] < 1_000:
        httpx.post(f"{one.url}/api/v1/breaker/{AGENT}/0/close", json={"reason": "test"})
        time.sleep(0.3)
    until(lambda: degraded(one) == [], 30)  # good events close it without anybody's help
    truth.wait_consumed([one], 1_000 + len(sent.clicks))
    ledger = truth.ledger(one)
    assert (ledger["dead_lettered"], ledger["emitted"], ledger["residue"]) == (1_000, len(sent.clicks), 0)
    assert len(truth.read(settings, dead_letters_of(settings.app_id, INTERACTIONS))) == 1_000


# -- stall --------------------------------------------------------------------------------------------


def test_a_worker_with_nothing_to_do_after_a_transaction_of_its_producer_is_alive(topics: MakeTopics, worker: StartWorker) -> None:
    """The log ends in a control record that no lane ever sees: for ever one offset of lag, and no stall."""
    settings = topics(partitions=1, stall_timeout_ms=2_000)
    one = worker(settings)
    producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": settings.app_id})
    producer.init_transactions(15)
    for _ in range(2):
        producer.begin_transaction()
        producer.produce(INTERACTIONS, b"{", "user-1")
        producer.commit_transaction(15)
    truth.wait_consumed([one], 2)

    until(lambda: lane(one)["end_offset"] == 4, 10)
    for _ in range(20):
        assert one.get("/livez")[0] == 200
        time.sleep(0.25)
    assert lane(one)["lag"] == 1
    assert metric(one, "veltrix_end_offset_query_failures_total") == 0


async def test_a_lane_that_does_not_follow_the_broker_stalls_and_one_whose_broker_is_gone_does_not(
    own_kafka: LocalKafka, topics: MakeTopics
) -> None:
    settings = topics(partitions=1, kafka_bootstrap=own_kafka.bootstrap, stall_timeout_ms=2_000)
    dead = DeadFetch()
    watchdog = StallWatchdog(dead, EndOffsetClient(settings), 2.0, {})
    watching = asyncio.create_task(watchdog.run())
    try:
        await asyncio.sleep(4)
        assert watchdog.stalls() == [], "nothing to do"
        await asyncio.to_thread(poison, settings, 5)
        stall = (await eventually(watchdog.stalls))[0]
        assert (stall.topic, stall.lag) == (INTERACTIONS, 5)
        own_kafka.pause()
        await eventually(lambda: not watchdog.stalls())
        own_kafka.resume()
        await eventually(watchdog.stalls)
        dead.next_offset = 5
        await eventually(lambda: not watchdog.stalls())
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


class DeadFetch:
    """A lane whose consumer fetches nothing and so knows of no lag. It is where ``next_offset`` says."""

    next_offset = 0

    def lanes(self) -> list[LaneStatus]:
        here = self.next_offset
        return [lane_status(0, next_offset=here, end_offset=here, queued_records=0, units_in_flight=0)]

    async def position(self, topic: str, partition: int) -> int:
        return self.next_offset


async def eventually(what: Callable[[], Any]) -> Any:
    """As ``until``, on the loop."""
    async with asyncio.timeout(40):
        while True:
            if answer := what():
                return answer
            await asyncio.sleep(0.1)


async def test_ends_are_told_without_the_workers_consumer_and_open_transactions_are_no_work(topics: MakeTopics) -> None:
    settings = topics(partitions=2)
    client = EndOffsetClient(settings)
    wanted = [(INTERACTIONS, 0), (INTERACTIONS, 1)]
    try:
        assert await client.ask(wanted) == {(INTERACTIONS, 0): 0, (INTERACTIONS, 1): 0}
        producer = Producer({"bootstrap.servers": settings.kafka_bootstrap, "transactional.id": settings.app_id})
        producer.init_transactions(15)
        producer.begin_transaction()
        producer.produce(INTERACTIONS, b"{}", partition=0)
        producer.flush(15)
        assert (await client.ask(wanted))[INTERACTIONS, 0] == 0
        producer.commit_transaction(15)
        end = 0
        async with asyncio.timeout(20):
            while end == 0:  # the end marker is written a little after the commit was answered
                end = (await client.ask(wanted))[INTERACTIONS, 0]
        assert end == 2, "the record and the end marker"
    finally:
        await client.aclose()


async def test_a_broker_that_is_gone_tells_nothing_and_is_asked_again_when_it_is_back(
    own_kafka: LocalKafka, topics: MakeTopics
) -> None:
    settings = topics(partitions=1, kafka_bootstrap=own_kafka.bootstrap, stall_timeout_ms=8_000)
    client, wanted = EndOffsetClient(settings), [(INTERACTIONS, 0)]
    try:
        assert await client.ask(wanted) == {(INTERACTIONS, 0): 0}
        own_kafka.pause()
        with pytest.raises(EndsUnknown):
            await client.ask(wanted)
        own_kafka.resume()
        assert await client.ask(wanted) == {(INTERACTIONS, 0): 0}
        own_kafka.kill()
        with pytest.raises(EndsUnknown):
            await client.ask(wanted)
        own_kafka.restart()
        assert await client.ask(wanted) == {(INTERACTIONS, 0): 0}
    finally:
        await client.aclose()


# -- self-fence ---------------------------------------------------------------------------------------


def test_a_worker_that_slept_longer_than_its_session_ends_and_its_successor_is_exact(
    topics: MakeTopics, worker: StartWorker
) -> None:
    settings = topics(partitions=2, kafka_session_timeout_ms=6_000)
    one, sent = worker(settings), truth.Sent()
    events = truth.clicks(6_000, "sleep")
    truth.send(settings, events[:3_000], sent)
    os.kill(one.pid, signal.SIGSTOP)
    try:
        truth.send(settings, events[3_000:], sent)
        time.sleep(6)
    finally:
        os.kill(one.pid, signal.SIGCONT)

    assert one.wait(15) == EXIT_FATAL
    assert "stood still for" in one.log.read_text()
    two = worker(settings)
    truth.wait_consumed([two], len(events))
    truth.assert_exact(settings, sent)


def test_a_worker_that_slept_for_less_goes_on(topics: MakeTopics, worker: StartWorker) -> None:
    settings = topics(partitions=2, kafka_session_timeout_ms=10_000)
    one, sent = worker(settings), truth.Sent()
    events = truth.clicks(2_000, "nap")
    os.kill(one.pid, signal.SIGSTOP)
    truth.send(settings, events, sent)
    time.sleep(4)
    os.kill(one.pid, signal.SIGCONT)

    truth.wait_consumed([one], len(events))
    truth.assert_exact(settings, sent)
    assert 3 < metric(one, "veltrix_fence_longest_pause_seconds") < metric(one, "veltrix_fence_limit_seconds") == 9

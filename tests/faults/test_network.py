"""The network between the worker and Kafka, and between the worker and Redis, goes bad. The checks use the direct way."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.ports import LOOPBACK
from deploy.local.redis import LocalRedis
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.endurance import Endurance, restart_if_it_gave_up
from tests.faults.harness import Scenario
from tests.faults.proxy import GOOD, Link, TcpProxy

KAFKA_PROMISED = "the worker stays up with bounded memory and goes on by itself; nothing lost, state exact"
EXITS = "; it may exit with 70, since its membership expired with transactions open, and its successor goes on"
REDIS_PROMISED = "the stream does not notice: nothing lost, nothing repeated, state exact; Redis is exact again by itself"
ROUND_TRIP_100_MS = Link(latency_s=0.05)


Break = Callable[[TcpProxy], None]


def slow(proxy: TcpProxy) -> None:
    """100 ms more for each round trip."""
    proxy.set(ROUND_TRIP_100_MS)
    time.sleep(10)
    proxy.set(GOOD)


def thin(proxy: TcpProxy) -> None:
    """64 KiB/s: less than the traffic needs."""
    proxy.set(Link(bytes_per_s=65_536))
    time.sleep(10)
    proxy.set(GOOD)


def sliced(proxy: TcpProxy) -> None:
    """Every packet is 16 bytes."""
    proxy.set(Link(slice_bytes=16))
    time.sleep(3)
    proxy.set(GOOD)


def reset(proxy: TcpProxy) -> None:
    """All connections are reset, twenty times: a write may meet the reset at any moment."""
    for _ in range(20):
        proxy.reset()
        time.sleep(0.3)


def cut(proxy: TcpProxy) -> None:
    """Reset, and refused for 10 s."""
    proxy.cut()
    time.sleep(10)
    proxy.restore()


def stall(proxy: TcpProxy) -> None:
    """Nothing passes for 10 s; then everything does."""
    proxy.set(Link(stalled=True))
    time.sleep(10)
    proxy.restore()


def half_open(proxy: TcpProxy) -> None:
    """Nothing passes for 15 s; the connections of that time never carry anything again."""
    proxy.black_hole()
    time.sleep(15)
    proxy.restore()


BREAKS = [
    pytest.param(slow, "latency 100 ms for 10 s", id="slow"),
    pytest.param(thin, "64 KiB/s for 10 s", id="thin"),
    pytest.param(sliced, "16-byte slices for 3 s", id="sliced"),
    pytest.param(reset, "all connections reset, 20 times", id="reset", marks=pytest.mark.faults_quick("at_least_once")),
    pytest.param(cut, "cut for 10 s", id="cut"),
    pytest.param(stall, "stalled for 10 s", id="stall"),
    pytest.param(half_open, "half-open for 15 s", id="half_open"),
]


@pytest.mark.parametrize(("break_it", "words"), BREAKS)
def test_the_way_to_kafka_breaks(
    scenario: MakeScenario, guarantee: Guarantee, way_to_kafka: tuple[LocalKafka, TcpProxy], break_it: Break, words: str
) -> None:
    kafka, proxy = way_to_kafka
    may_exit = guarantee == "exactly_once" and break_it is half_open  # longer than the session, with transactions open
    promised = KAFKA_PROMISED + (EXITS if may_exit else "")
    run = scenario(f"network to Kafka: {words}", guarantee, promised, kafka_bootstrap=kafka.bootstrap)
    with run.traffic(), Endurance(run.start(kafka_bootstrap=f"{LOOPBACK}:{proxy.port}"), may_exit=may_exit):
        run.pause(1.0, 2.0)
        assert proxy.connections > 0
        with run.injection(timeout_s=180):
            break_it(proxy)
            if may_exit:
                restart_if_it_gave_up(run, timeout_s=30)

    run.verify()


@pytest.mark.parametrize(("break_it", "words"), BREAKS)
def test_the_way_to_redis_breaks(
    scenario: MakeScenario, guarantee: Guarantee, way_to_redis: TcpProxy, own_redis: LocalRedis, break_it: Break, words: str
) -> None:
    run = scenario(f"network to Redis: {words}", guarantee, REDIS_PROMISED, may_repeat=False, redis_url=own_redis.url)
    with run.traffic(), Endurance(run.start(redis_url=f"redis://{LOOPBACK}:{way_to_redis.port}/0")) as endurance:
        run.pause(1.0, 2.0)
        assert way_to_redis.connections > 0
        break_it(way_to_redis)
        with run.injection(timeout_s=5):  # what is sent from now on
            run.pause(0.5, 1.0)
        assert endurance.new_rebalances() == 0

    run.verify()
    assert_the_stream_kept_up(run)


def assert_the_stream_kept_up(run: Scenario) -> None:
    """Within the block of one second and what is in flight."""
    assert run.resume_s[0] < 4, run.resume_s

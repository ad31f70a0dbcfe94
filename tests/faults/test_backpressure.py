"""Back-pressure: a backlog, a slow Kafka and a slow Redis cost time; never memory, and never the group's membership."""

from __future__ import annotations

import time

import pytest

from deploy.local.kafka import LocalKafka
from deploy.local.ports import LOOPBACK
from deploy.local.redis import LocalRedis
from tests.faults.checker import Guarantee
from tests.faults.conftest import MakeScenario
from tests.faults.endurance import Endurance, metric
from tests.faults.proxy import GOOD, Link, TcpProxy

BACKLOG = 1_000_000
SMALL_BACKLOG = 40_000
BACKLOG_BOUND_MIB = 350
"""With a million events of backlog on four partitions a worker needs 231 MiB (docs/benchmarks.md): what waits stays in Kafka."""
FAST = 1e9
"""Events per second: as fast as the sender can"""
SLOW_S = 15
LAG_BOUND = 3_000
"""Records: two seconds of the traffic"""


@pytest.mark.timeout(1_800)
def test_a_backlog_is_worked_off_in_bounded_memory(scenario: MakeScenario, guarantee: Guarantee) -> None:
    promised = f"resident memory below {BACKLOG_BOUND_MIB} MiB, no rebalance; nothing lost, nothing repeated, state exact"
    run = scenario(f"backlog of {BACKLOG:,} events", guarantee, promised, may_repeat=False)
    with run.traffic(rate=FAST) as traffic:
        traffic.wait_sent(BACKLOG, timeout_s=600)
    with run.injection(), Endurance(run.start(), BACKLOG_BOUND_MIB) as endurance:
        run.wait_committed(timeout_s=600)
        assert endurance.new_rebalances() == 0

    run.verify()


def test_a_slow_kafka_slows_consumption_and_keeps_the_membership(
    scenario: MakeScenario, guarantee: Guarantee, way_to_kafka: tuple[LocalKafka, TcpProxy]
) -> None:
    kafka, proxy = way_to_kafka
    promised = "consumption slows, memory stays bounded, no rebalance; nothing lost, nothing repeated, state exact"
    run = scenario(
        "Kafka slow: 200 ms round trip, 256 KiB/s", guarantee, promised, may_repeat=False, kafka_bootstrap=kafka.bootstrap
    )
    one = run.start(kafka_bootstrap=f"{LOOPBACK}:{proxy.port}")
    with Endurance(one, BACKLOG_BOUND_MIB) as endurance:
        proxy.set(Link(latency_s=0.1, bytes_per_s=256 * 1024))
        with run.traffic(rate=FAST) as traffic:
            traffic.wait_sent(SMALL_BACKLOG)
        time.sleep(SLOW_S)
        assert metric(one, "veltrix_consumer_lag") > 0  # it was slow indeed
        assert endurance.new_rebalances() == 0
        with run.injection(timeout_s=180):
            proxy.set(GOOD)
        assert endurance.new_rebalances() == 0

    run.verify()


def test_a_slow_redis_does_not_slow_the_stream(
    scenario: MakeScenario, guarantee: Guarantee, way_to_redis: TcpProxy, own_redis: LocalRedis
) -> None:
    promised = "the stream keeps up and memory stays bounded; Redis is exact soon after; nothing lost, nothing repeated"
    run = scenario("Redis slow: 400 ms round trip", guarantee, promised, may_repeat=False, redis_url=own_redis.url)
    one = run.start(redis_url=f"redis://{LOOPBACK}:{way_to_redis.port}/0")
    with run.traffic(rate=1_500), Endurance(one, BACKLOG_BOUND_MIB) as endurance:
        way_to_redis.set(Link(latency_s=0.2))
        lags = []
        for _ in range(SLOW_S):
            time.sleep(1)
            lags.append(metric(one, "veltrix_consumer_lag"))
        with run.injection(timeout_s=10):
            way_to_redis.set(GOOD)
        assert max(lags[2:]) < LAG_BOUND, lags
        assert endurance.new_rebalances() == 0

    run.verify()

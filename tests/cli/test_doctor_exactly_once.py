"""``veltrix doctor`` with exactly_once: groups, transaction state log, timeout."""

from __future__ import annotations

import pytest

from app.cli.doctor_exactly_once import (
    MAX_TIMEOUT,
    MIN_ISR,
    REPLICATION,
    check_exactly_once,
    check_groups,
    check_state_log,
    check_timeout,
)
from app.settings import Settings

THREE = Settings(replication_factor=3, min_insync_replicas=2)


async def test_at_least_once_needs_no_transactions_and_no_broker() -> None:
    assert await check_exactly_once(Settings(kafka_bootstrap="127.0.0.1:1")) == []


@pytest.mark.parametrize(
    ("groups", "partitions", "members", "status", "said"),
    [
        (4, 10, 0, "ok", "at most 4 workers"),
        (4, 4, 4, "ok", "at most 4 workers"),
        (5, 4, 1, "fail", "some would have none"),
        (2, 10, 3, "warn", "1 of them idle"),
    ],
)
def test_groups_fit_partitions_and_workers(groups: int, partitions: int, members: int, status: str, said: str) -> None:
    check = check_groups(groups, partitions, members)

    assert (check.status, said in check.detail) == (status, True)
    assert bool(check.advice) == (status != "ok")


@pytest.mark.parametrize(
    ("config", "replicas", "brokers", "status"),
    [
        ({REPLICATION: "3", MIN_ISR: "2"}, 3, 3, "ok"),
        ({REPLICATION: "3", MIN_ISR: "2"}, None, 3, "ok"),
        ({}, None, 3, "ok"),  # Kafka's defaults are 3 and 2
        ({REPLICATION: "3", MIN_ISR: "2"}, None, 1, "fail"),  # the log cannot be made
        ({REPLICATION: "1", MIN_ISR: "1"}, None, 3, "fail"),
        ({REPLICATION: "3", MIN_ISR: "2"}, 1, 3, "fail"),  # made before the brokers were set up
        ({REPLICATION: "3", MIN_ISR: "1"}, 3, 3, "warn"),
    ],
)
def test_the_transaction_log_is_as_safe_as_the_topics(
    config: dict[str, str], replicas: int | None, brokers: int, status: str
) -> None:
    check = check_state_log(config, replicas, brokers, THREE)

    assert check.status == status
    assert bool(check.advice) == (status != "ok")


def test_one_broker_with_one_replica_is_enough_for_a_small_deployment() -> None:
    assert check_state_log({REPLICATION: "1", MIN_ISR: "1"}, 1, 1, Settings()).status == "ok"


def test_a_log_that_exists_already_is_raised_by_hand() -> None:
    assert "kafka-reassign-partitions.sh" in check_state_log({REPLICATION: "3"}, 1, 3, THREE).advice
    assert "kafka-reassign-partitions.sh" not in check_state_log({REPLICATION: "1"}, None, 3, THREE).advice


def test_a_timeout_above_the_brokers_limit_fails() -> None:
    assert check_timeout({MAX_TIMEOUT: "5000"}, 10_000).status == "fail"
    assert check_timeout({MAX_TIMEOUT: "10000"}, 10_000).status == "ok"
    assert check_timeout({}, 10_000).status == "ok"

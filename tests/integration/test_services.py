"""The native Kafka and Redis keep what demo, tests and benchmarks expect of them."""

from __future__ import annotations

import socket
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Message, Producer

from app.topics import INTERACTIONS
from deploy.local.kafka import KafkaError, LocalKafka
from deploy.local.ports import PortTakenError
from deploy.local.process import ProcessError
from deploy.local.redis import LocalRedis
from tests.integration.conftest import MakeTopics


def produce(bootstrap: str, key: bytes, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    failures: list[object] = []

    def delivered(error: object, message: Message) -> None:
        if error is not None:
            failures.append(error)

    producer.produce(INTERACTIONS, key=key, value=value, on_delivery=delivered)
    assert producer.flush(15) == 0
    assert failures == []


def consume_one(bootstrap: str) -> tuple[bytes | None, bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "test", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([INTERACTIONS])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        return message.key(), message.value()
    finally:
        consumer.close()


def test_a_produced_record_is_consumed_unchanged(topics: MakeTopics) -> None:
    settings = topics()

    produce(settings.kafka_bootstrap, b"ann", b'{"type":"page"}')

    assert consume_one(settings.kafka_bootstrap) == (b"ann", b'{"type":"page"}')


def test_topics_are_empty_again_for_the_next_test(topics: MakeTopics) -> None:
    first = topics()
    produce(first.kafka_bootstrap, b"ann", b"old")

    second = topics()
    produce(second.kafka_bootstrap, b"bob", b"new")

    assert second.app_id != first.app_id
    assert consume_one(second.kafka_bootstrap) == (b"bob", b"new")


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restarted_broker_has_kept_its_records(how: str, own_kafka: LocalKafka, topics: MakeTopics) -> None:
    settings = topics(kafka_bootstrap=own_kafka.bootstrap, redis_url="")
    produce(settings.kafka_bootstrap, b"ann", b"kept")
    before = own_kafka.bootstrap, own_kafka.pid

    getattr(own_kafka, how)()
    own_kafka.start()

    assert (own_kafka.bootstrap, own_kafka.pid != before[1]) == (before[0], True)
    assert consume_one(own_kafka.bootstrap) == (b"ann", b"kept")


def test_an_unknown_topic_is_not_made_by_writing_to_it(kafka: LocalKafka) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "message.timeout.ms": 3000})
    errors: list[object] = []

    producer.produce("never-made", value=b"x", on_delivery=lambda error, _message: errors.append(error))
    producer.flush(15)

    assert [error is not None for error in errors] == [True]


def test_a_broker_that_cannot_be_prepared_shows_its_log(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka", config={"log.segment.bytes": "nonsense"})

    with pytest.raises(KafkaError, match=r"cannot format[\s\S]*log.segment.bytes"):
        broker.start()

    assert not broker.is_running()


def test_a_broker_that_ends_while_it_starts_shows_its_log(tmp_path: Path) -> None:
    broker = LocalKafka(tmp_path / "kafka", config={"metric.reporters": "no.such.Reporter"})

    with pytest.raises(ProcessError, match=r"Kafka ended while it started \(exit status 1\)[\s\S]*no.such.Reporter"):
        broker.start()

    assert not broker.is_running()


def test_a_foreign_server_on_our_port_is_not_mistaken_for_ours(kafka: LocalKafka, redis: LocalRedis, tmp_path: Path) -> None:
    with pytest.raises(PortTakenError, match=str(kafka.port)):
        LocalKafka(tmp_path / "kafka", port=kafka.port).start()
    with pytest.raises(PortTakenError, match=str(redis.port)):
        LocalRedis(tmp_path / "redis", port=redis.port).start()


def test_redis_answers_and_forgets(own_redis: LocalRedis) -> None:
    with socket.create_connection(("127.0.0.1", own_redis.port), 5) as connection:
        connection.sendall(b"SET a 1\r\nGET a\r\n")
        assert connection.recv(64).startswith(b"+OK\r\n")

    own_redis.flush()

    with socket.create_connection(("127.0.0.1", own_redis.port), 5) as connection:
        connection.sendall(b"DBSIZE\r\n")
        assert connection.recv(64) == b":0\r\n"


def test_stopped_services_leave_no_process(tmp_path: Path) -> None:
    with LocalKafka(tmp_path / "kafka") as broker, LocalRedis(tmp_path / "redis") as server:
        pids = [broker.pid, server.pid]
        assert all(psutil.pid_exists(pid) for pid in pids)

    assert not any(psutil.pid_exists(pid) for pid in pids)

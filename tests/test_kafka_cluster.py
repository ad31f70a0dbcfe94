"""Laws of the three-node cluster, on real brokers: one node may go, two may not, and a proxy gets its own listener."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from deploy.local.kafka import KafkaError, LocalKafka
from deploy.local.kafka_config import Proxied, node_properties, server_properties
from tests.kafka_cluster import ClusterError, LocalCluster

TOPIC = "things"


def test_nodes_differ_in_their_id_alone() -> None:
    first, second = node_properties(1, [10, 11, 12]), node_properties(2, [10, 11, 12])

    assert {name for name in first if first[name] != second[name]} == {"node.id"}
    assert first["controller.quorum.voters"] == "1@127.0.0.1:10,2@127.0.0.1:11,3@127.0.0.1:12"
    assert (first["default.replication.factor"], first["min.insync.replicas"]) == ("3", "2")


def test_a_listener_for_a_proxy_leaves_the_direct_one_as_it_was() -> None:
    text = server_properties(Path("/data"), 1, 2, {}, Proxied(port=3, advertised=4))

    assert "listeners=PLAINTEXT://127.0.0.1:1,CONTROLLER://127.0.0.1:2,PROXIED://127.0.0.1:3\n" in text
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:1,PROXIED://127.0.0.1:4\n" in text


def test_without_a_proxy_there_is_no_listener_for_one(tmp_path: Path) -> None:
    assert "PROXIED://" not in server_properties(Path("/data"), 1, 2, {})
    with pytest.raises(KafkaError, match="made without `advertised`"):
        _ = LocalKafka(tmp_path).behind_proxy


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes and one topic with three partitions."""
    with LocalCluster(tmp_path_factory.mktemp("cluster")) as nodes:
        admin = AdminClient({"bootstrap.servers": nodes.bootstrap})
        admin.create_topics([NewTopic(TOPIC, 3, 3)])[TOPIC].result()
        nodes.wait_in_sync(TOPIC)
        yield nodes


def produce(cluster: LocalCluster, timeout_ms: int = 30_000) -> int:
    """One record into each of three partitions with acks=all; how many were acknowledged."""
    acknowledged: list[bool] = []
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all", "message.timeout.ms": timeout_ms, "log_level": 2})
    for number in range(3):
        producer.produce(TOPIC, b"x", partition=number, on_delivery=lambda error, _: acknowledged.append(error is None))
    producer.flush()
    assert len(acknowledged) == 3
    return sum(acknowledged)


@pytest.mark.integration
@pytest.mark.timeout(240)
class TestThreeNodes:
    """In this order: each begins with all nodes up and in sync, and leaves them so."""

    def test_every_partition_is_on_every_node_and_the_leaders_are_spread(self, cluster: LocalCluster) -> None:
        partitions = cluster.partitions(TOPIC)

        assert {tuple(sorted(one.isr)) for one in partitions.values()} == {(1, 2, 3)}
        assert {one.leader for one in partitions.values()} == {1, 2, 3}
        assert cluster.busiest(TOPIC) == 1

    def test_an_unknown_topic_is_an_error(self, cluster: LocalCluster) -> None:
        with pytest.raises((KafkaException, KeyError)):
            cluster.partitions("no-such-topic")

    def test_one_node_may_be_killed_and_comes_back(self, cluster: LocalCluster) -> None:
        leader = cluster.leaders(TOPIC)[0]
        others = sorted({1, 2, 3} - {leader})

        cluster.node(leader).kill()
        cluster.wait_led(TOPIC, others)

        assert cluster.running() == others
        assert produce(cluster) == 3
        cluster.node(leader).start()
        cluster.wait_in_sync(TOPIC)

    def test_with_two_nodes_gone_nothing_is_acknowledged_until_one_is_back(self, cluster: LocalCluster) -> None:
        for number in (2, 3):
            cluster.node(number).kill()

        assert produce(cluster, timeout_ms=5_000) == 0
        for number in (2, 3):
            cluster.node(number).prepare()
            cluster.node(number).launch()
        for number in (2, 3):
            cluster.node(number).wait_ready()
        cluster.wait_in_sync(TOPIC)

        assert produce(cluster) == 3

    def test_a_paused_node_loses_its_leadership_and_takes_part_again(self, cluster: LocalCluster) -> None:
        leader = cluster.leaders(TOPIC)[0]
        cluster.node(leader).pause()
        began = time.monotonic()
        while cluster.node(leader).is_running() and time.monotonic() - began < 10:  # longer than the broker's session
            time.sleep(0.1)

        cluster.node(leader).resume()
        cluster.wait_in_sync(TOPIC)

        assert cluster.running() == [1, 2, 3]
        assert cluster.leaders(TOPIC)[0] != leader

    def test_a_wait_that_fails_says_what_it_saw(self, cluster: LocalCluster) -> None:
        with pytest.raises(ClusterError, match=r"things is not led by one of \[9\] after 0\.1 s: .*leader="):
            cluster.wait_led(TOPIC, [9], timeout_s=0.1)

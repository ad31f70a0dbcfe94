"""Three Kafka nodes on the loopback interface: replication factor 3, min.insync.replicas 2, each broker and controller.

Two nodes are a majority: any one may be killed, paused or stopped and every acknowledged record is still there.
With two gone nothing that asks for ``acks=all`` is acknowledged, and the lone controller cannot elect anybody.
Needs the development dependency confluent-kafka, to ask for leaders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from deploy.local.kafka import LocalKafka, new_cluster_id
from deploy.local.kafka_config import node_properties
from deploy.local.ports import free_ports

NODES = 3
HEAP_MB = 384
START_TIMEOUT_S = 90.0
ASK_TIMEOUT_S = 5.0
#: A node may hear of a topic this much later than the one that was asked before.
HEARSAY_S = 3.0
SETTLE_TIMEOUT_S = 60.0
POLL_S = 0.2


class ClusterError(Exception):
    """The cluster did not reach a wanted condition in time. The message says which and what was seen last."""


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Who has a partition. Node ids from 1; ``leader`` is -1 when it has none."""

    leader: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]


class LocalCluster:
    """Nodes 1, 2, 3 with data under ``data_dir/node-N``; ports are kept for the life of the object.

    Args:
        data_dir: made if missing.
        config: broker settings for every node that override the defaults in ``kafka_config``.
        heap_mb: fixed size of each Java heap.
        advertised: ports of proxies in order of the node ids, see :class:`LocalKafka`; empty: none.
    """

    def __init__(
        self, data_dir: Path, config: Mapping[str, str] | None = None, heap_mb: int = HEAP_MB, advertised: Sequence[int] = ()
    ) -> None:
        self.data_dir = data_dir.resolve()
        ports = free_ports(3 * NODES)  # taken here and not by each node: theirs could meet
        brokers, controllers = ports[:NODES], ports[NODES : 2 * NODES]
        cluster_id = new_cluster_id()
        self._nodes = {
            number: LocalKafka(
                self.data_dir / f"node-{number}",
                brokers[number - 1],
                node_properties(number, controllers) | dict(config or {}),
                heap_mb,
                controller_port=controllers[number - 1],
                cluster_id=cluster_id,
                advertised=advertised[number - 1] if advertised else 0,
            )
            for number in range(1, NODES + 1)
        }

    @property
    def bootstrap(self) -> str:
        """All nodes, running or not."""
        return ",".join(node.bootstrap for node in self._nodes.values())

    def node(self, number: int) -> LocalKafka:
        """Node 1, 2 or 3: stop, kill, pause, resume or restart it."""
        return self._nodes[number]

    def start(self) -> None:
        """Format new storage, start all nodes, wait until each answers.

        Raises:
            KafkaError, JavaError, PortTakenError, ProcessError: as ``LocalKafka.start``.
        """
        nodes = list(self._nodes.values())
        with ThreadPoolExecutor(NODES) as threads:
            list(threads.map(LocalKafka.prepare, nodes))
        # Not in those threads: a child dies with the thread that started it. A lone node waits for a majority.
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait_ready(START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop every node, running or paused."""
        for node in self._nodes.values():
            node.kill()  # a controlled shutdown of the last two waits in vain for a majority

    def running(self) -> list[int]:
        """Nodes whose process is there; a paused one counts."""
        return [number for number, node in self._nodes.items() if node.is_running()]

    def partitions(self, topic: str) -> dict[int, PartitionState]:
        """State of each partition of ``topic`` as a running node tells it: not the same one each time.

        Raises:
            KafkaException: no running node answers, or it has no such topic and does not hear of one.
        """
        bootstrap = ",".join(self._nodes[number].bootstrap for number in self.running())
        admin, deadline = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2}), time.monotonic() + HEARSAY_S
        while (found := admin.list_topics(topic, timeout=ASK_TIMEOUT_S).topics[topic]).error is not None:
            if found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART or time.monotonic() > deadline:
                raise KafkaException(found.error)
            time.sleep(POLL_S)
        return {
            number: PartitionState(one.leader, tuple(one.replicas), tuple(one.isrs)) for number, one in found.partitions.items()
        }

    def leaders(self, topic: str) -> dict[int, int]:
        """Partition to the node that leads it, -1 for none."""
        return {number: one.leader for number, one in self.partitions(topic).items()}

    def busiest(self, topic: str) -> int:
        """The node that leads most partitions of ``topic``; the lowest of equals."""
        leaders = list(self.leaders(topic).values())
        return max(sorted(self._nodes), key=leaders.count)

    def wait_led(self, topic: str, among: Sequence[int] = (1, 2, 3), timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until every partition of ``topic`` is led by one of ``among``.

        Raises:
            ClusterError: not in time.
        """
        self._wait(topic, lambda one: one.leader in among, f"led by one of {list(among)}", timeout_s)

    def wait_in_sync(self, topic: str, replicas: int = NODES, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until every partition of ``topic`` has at least ``replicas`` in sync.

        Raises:
            ClusterError: not in time.
        """
        self._wait(topic, lambda one: len(one.isr) >= replicas, f"in sync on {replicas} nodes", timeout_s)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _wait(self, topic: str, holds: Callable[[PartitionState], bool], what: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                seen = self.partitions(topic)
            except KafkaException as exc:  # in the middle of an election nobody may answer
                seen, last = {}, str(exc)
            else:
                last = str(seen)
            if seen and all(holds(one) for one in seen.values()):
                return
            if time.monotonic() > deadline:
                raise ClusterError(f"{topic} is not {what} after {timeout_s:g} s: {last}")
            time.sleep(POLL_S)

"""Configuration of brokers: KRaft combined mode, one node or several, sized for a test machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import LOOPBACK

ONE_BROKER = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}
REPLICATED = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "share.coordinator.state.topic.replication.factor": "3",
    "share.coordinator.state.topic.min.isr": "2",
    # Three JVMs on two cores may be busy for longer than the 3 s of a lone broker.
    "broker.session.timeout.ms": "6000",
}
"""Of a node among three: a record that was acknowledged to ``acks=all`` is on two disks."""
QUICK = {
    "group.initial.rebalance.delay.ms": "0",  # 3 s by default, at every start of a worker
    "group.min.session.timeout.ms": "1000",
    "offsets.topic.num.partitions": "4",  # 50 by default: a second of file creation at the first join
    "transaction.state.log.num.partitions": "4",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",  # a restart after kill -9 waits this long for the old registration
    "log.retention.check.interval.ms": "5000",
    "log.segment.delete.delay.ms": "1000",
}
SMALL = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",  # 128 MiB by default, a quarter of our heap
}


@dataclass(frozen=True, slots=True)
class Proxied:
    """A second listener, for clients behind a proxy: the broker listens on ``port`` and tells them to come to ``advertised``.

    Clients of the first listener keep their direct way, so that a test can break one way and count by the other.
    """

    port: int
    advertised: int


def server_properties(
    data_dir: Path, port: int, controller_port: int, overrides: Mapping[str, str], proxied: Proxied | None = None
) -> str:
    """Text of ``server.properties``; ``overrides`` win."""
    listeners = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "log.dirs": str(data_dir / "logs"),
        "auto.create.topics.enable": "false",  # a missing topic must be an error, as in production
    }
    if proxied is not None:
        listeners["listeners"] += f",PROXIED://{LOOPBACK}:{proxied.port}"
        listeners["advertised.listeners"] += f",PROXIED://{LOOPBACK}:{proxied.advertised}"
    merged = listeners | ONE_BROKER | QUICK | SMALL | dict(overrides)
    return "".join(f"{name}={value}\n" for name, value in merged.items())


def node_properties(node_id: int, controller_ports: Sequence[int]) -> dict[str, str]:
    """What differs from a lone broker for node ``node_id`` (from 1) of a cluster with these controllers, in order of their ids."""
    voters = ",".join(f"{number}@{LOOPBACK}:{port}" for number, port in enumerate(controller_ports, 1))
    return REPLICATED | {"node.id": str(node_id), "controller.quorum.voters": voters}

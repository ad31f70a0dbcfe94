"""Configuration of the one-node broker: KRaft combined mode, sized for a test machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import LOOPBACK

ONE_BROKER = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}
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


def server_properties(data_dir: Path, port: int, controller_port: int, overrides: Mapping[str, str]) -> str:
    """Text of ``server.properties``; ``overrides`` win."""
    listeners = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "log.dirs": str(data_dir / "logs"),
        "auto.create.topics.enable": "false",  # a missing topic must be an error, as in production
    }
    merged = listeners | ONE_BROKER | QUICK | SMALL | dict(overrides)
    return "".join(f"{name}={value}\n" for name, value in merged.items())

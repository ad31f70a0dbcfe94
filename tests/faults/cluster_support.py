"""What tests with their own brokers need beyond the shared fixtures: replicated topics."""

from __future__ import annotations

import uuid
from typing import Any

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.settings import Settings, load_settings
from app.topics import all_topics
from tests.faults.harness import SESSION_TIMEOUT_MS

REPLICAS = 3


def replicated(bootstrap: str, **overrides: Any) -> Settings:
    """Settings of a fresh deployment on three brokers, min.insync.replicas 2, with all its topics."""
    defaults = {
        "app_id": f"t-{uuid.uuid4().hex[:12]}", "partitions": 4, "kafka_bootstrap": bootstrap, "replication_factor": REPLICAS,
        "min_insync_replicas": 2, "kafka_session_timeout_ms": SESSION_TIMEOUT_MS,
    }  # fmt: skip
    settings = load_settings(**(defaults | overrides))
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [NewTopic(one.name, one.partitions, REPLICAS, config=dict(one.config)) for one in all_topics(settings)]
    for created in admin.create_topics(wanted).values():
        created.result()
    return settings

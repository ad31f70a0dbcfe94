"""Deleting and creating topics from tests, by a client that is not the one under test."""

from __future__ import annotations

import time
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from app.topics import Topic

TIMEOUT_S = 15.0


def recreate(bootstrap: str, topics: Sequence[Topic], *, create: bool = True) -> None:
    """Delete those topics that exist, then create them all empty.

    Raises:
        KafkaException: the broker refuses, or a deletion does not end in time.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap})
    existing = admin.list_topics(timeout=TIMEOUT_S).topics
    doomed = [topic.name for topic in topics if topic.name in existing]
    if doomed:
        for deleted in admin.delete_topics(doomed, operation_timeout=TIMEOUT_S).values():
            deleted.result()
    if create:
        _create(admin, topics, time.monotonic() + TIMEOUT_S)


def _create(admin: AdminClient, topics: Sequence[Topic], deadline: float) -> None:
    wanted = [NewTopic(topic.name, topic.partitions, 1, config=dict(topic.config)) for topic in topics]
    again = []
    for name, created in admin.create_topics(wanted).items():
        try:
            created.result()
        except KafkaException as exc:
            # A deletion is answered a little before it has reached every part of the broker.
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS or time.monotonic() > deadline:
                raise
            again.append(next(topic for topic in topics if topic.name == name))
    if again:
        time.sleep(0.1)
        _create(admin, again, deadline)

"""A changelog topic that takes no write for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import (  # type: ignore[attr-defined] # it names them in no __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from app.settings import Settings
from app.topics import changelog_of
from tests.faults.observed import AGENT

SETTING = "max.message.bytes"
TINY = "100"
"""Bytes: less than any batch with a marker"""


@contextmanager
def refusing_writes(settings: Settings) -> Iterator[None]:
    """The broker answers MESSAGE_TOO_LARGE to every changelog batch for the length of the block."""
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap})  # a client that is forgotten drops its requests
    name = changelog_of(settings.app_id, AGENT)
    (described,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    usual = str(described.result()[SETTING].value)
    _set(admin, name, TINY)
    try:
        yield
    finally:
        _set(admin, name, usual)


def _set(admin: AdminClient, topic: str, value: str) -> None:
    entry = ConfigEntry(SETTING, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for altered in admin.incremental_alter_configs([resource]).values():
        altered.result()

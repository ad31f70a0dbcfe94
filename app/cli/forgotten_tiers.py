"""Retry tiers that no worker reads any more, although records wait in them: ``VELTRIX_RETRY_DELAYS`` was changed too early."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition

from app.cli.reading import open_consumer, read_range
from app.settings import Settings
from app.topic_admin import open_admin
from app.topics import RETRIED, retry_prefix, retry_tiers


@dataclass(frozen=True, slots=True)
class ForgottenTier:
    """``records`` wait in ``topic``, whose delay is ``label`` (``10m``)."""

    topic: str
    label: str
    records: int

    def __str__(self) -> str:
        return f"{self.topic}: {self.records} records wait in it, and VELTRIX_RETRY_DELAYS does not name it any more"

    @property
    def advice(self) -> str:
        """What to do."""
        return (
            f"put {self.label} back into VELTRIX_RETRY_DELAYS until veltrix_retry_waiting says that they are gone, "
            "or delete the topic to give them up"
        )


async def forgotten_tiers(settings: Settings) -> list[ForgottenTier]:
    """Those with records that the group has not committed.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
        TopicAdminError: it does not let us look.
    """
    async with open_admin(settings) as admin:
        labels = _unread(settings, await admin.names())
        if not labels:
            return []
        tps = [TopicPartition(topic, number) for topic in labels for number in await admin.partitions(topic)]
        committed = await admin.client.list_consumer_group_offsets(settings.app_id, partitions=tps)
    # What the group has committed may lie before markers of transactions, which are no records: so they are read.
    async with open_consumer(settings, isolation_level="read_committed") as consumer:
        begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        starts = {tp: max(begins[tp], committed[tp].offset if tp in committed else -1) for tp in tps}
        waiting = Counter(record.topic for record in await read_range(consumer, starts, ends))
    return [ForgottenTier(topic, labels[topic], count) for topic, count in sorted(waiting.items())]


def _unread(settings: Settings, names: Sequence[str]) -> Mapping[str, str]:
    """Topics of tiers of this application, among ``names``, that the settings do not name: topic -> delay."""
    found: dict[str, str] = {}
    for source in RETRIED:
        prefix, read = retry_prefix(settings.app_id, source), {tier.topic for tier in retry_tiers(settings, source)}
        found |= {name: name.removeprefix(prefix) for name in names if name.startswith(prefix) and name not in read}
    return {name: label for name, label in found.items() if label[:1].isdigit() and label.isalnum()}

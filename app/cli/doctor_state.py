"""Checks of ``veltrix doctor`` on the tables in the data directory: do they still belong to the topics of this cluster?

A worker asks the same before it works (:mod:`app.engine.identity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiokafka
from aiokafka import TopicPartition

from app.cli.checkup import Check, fail, ok
from app.cli.reading import open_consumer, read_range
from app.engine.api import RESET_KEY
from app.engine.identity import WrongTopic, check_changelog, check_end, check_source_end, check_sources
from app.engine.local_tables import LocalTable, read_tables
from app.settings import Settings
from app.topic_admin import open_admin
from app.topics import AGENTS, changelog_of


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the brokers say: topic ids, and next offsets; a topic that does not exist is in neither.

    ``reset``: tables (by changelog and partition) for which a reset record waits: they forget all they hold.
    """

    ids: Mapping[str, bytes]
    ends: Mapping[tuple[str, int], int]
    reset: frozenset[tuple[str, int]] = frozenset()


async def check_tables(settings: Settings) -> list[Check]:
    """One line when all tables belong to the topics that are there, else one for each that does not.

    Raises:
        KafkaConnectError: the broker cannot be reached.
        TopicAdminError: it does not let us look.
    """
    tables, broken = read_tables(settings.data_dir, AGENTS)
    checks = [
        fail("tables", str(exc), "stop the worker and delete this directory: the changelog has its content") for exc in broken
    ]
    if tables:
        checks += compare_tables(tables, await look(settings, tables), settings.app_id)
        return checks or [ok("tables", f"{len(tables)} partitions on disk belong to the topics of this cluster")]
    return checks or [ok("tables", f"none in {settings.data_dir}: a worker restores them from the changelogs")]


async def look(settings: Settings, tables: Sequence[LocalTable]) -> Cluster:
    """Ids and ends of the topics of ``tables``, and where a reset waits. Asking never creates a topic."""
    changelogs = {(changelog_of(settings.app_id, table.agent), table.partition): table.changelog_offset + 1 for table in tables}
    wanted = set(changelogs) | {(topic, table.partition) for table in tables for topic in table.applied}
    async with open_admin(settings) as admin:
        rows = await admin.client.describe_topics()
        ids = await admin.ids(sorted({topic for topic, _ in wanted}))
    exist = {(row["topic"], partition["partition"]) for row in rows for partition in row["partitions"]}
    async with open_consumer(settings) as consumer:
        ends = await consumer.end_offsets([TopicPartition(*tp) for tp in sorted(wanted & exist)])
        reset = await _waiting_resets(consumer, {TopicPartition(*tp): start for tp, start in changelogs.items() if tp in exist})
    return Cluster(ids, {(tp.topic, tp.partition): end for tp, end in ends.items()}, reset)


async def _waiting_resets(consumer: aiokafka.AIOKafkaConsumer, tails: Mapping[TopicPartition, int]) -> frozenset[tuple[str, int]]:
    """``tails``: where a table would read on. A reset deletes what was before it, so its record is the first there is."""
    begins, ends = await consumer.beginning_offsets(list(tails)), await consumer.end_offsets(list(tails))
    starts = {tp: begins[tp] for tp, start in tails.items() if start <= begins[tp] < ends[tp]}
    firsts = {tp: min(ends[tp], start + 1) for tp, start in starts.items()}
    records = await read_range(consumer, starts, firsts)
    return frozenset((record.topic, record.partition) for record in records if record.key == RESET_KEY)


def compare_tables(tables: Sequence[LocalTable], cluster: Cluster, app_id: str) -> list[Check]:
    """A failed check for each table that does not belong to its topics; topics that are missing are reported elsewhere."""
    checks = []
    for table in tables:
        try:
            _compare(table, cluster, changelog_of(app_id, table.agent))
        except WrongTopic as exc:
            checks.append(fail("tables", exc.fact, exc.mend))
    return checks


def _compare(table: LocalTable, cluster: Cluster, changelog: str) -> None:
    check_changelog(table.changelog_id, changelog, table.partition, cluster.ids)
    end = cluster.ends.get((changelog, table.partition))
    if end is not None:
        check_end(changelog, table.partition, table.changelog_offset, end)
    if (changelog, table.partition) in cluster.reset:
        return
    check_sources(table.source_ids, table.applied, table.partition, cluster.ids)
    for topic, applied in table.applied.items():
        end = cluster.ends.get((topic, table.partition))
        if end is not None:
            check_source_end(topic, table.partition, applied, end)

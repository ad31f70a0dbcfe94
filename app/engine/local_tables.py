"""The tables in a data directory, read from outside: before a worker joins its group, and by ``veltrix doctor``.

Each RocksDB is opened as a secondary: it takes no lock, so that a running worker is not disturbed and its tables can
be looked at too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from rocksdict import AccessType, Options, Rdict

from app.engine.identity import TopicIds, WrongTopic, check_changelog
from app.engine.marker import (
    CHANGELOG_ID_KEY,
    MARKER_KEY,
    OFFSET_KEY,
    SOURCE_IDS_KEY,
    decode_marker,
    decode_offset,
    decode_topic_ids,
)
from app.topics import changelog_of


class TableUnreadable(Exception):
    """A RocksDB cannot be opened. Stop the worker and delete its directory: it is restored from the changelog."""

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.path = path


@dataclass(frozen=True, slots=True)
class LocalTable:
    """What one RocksDB says of itself. ``applied``: next offset per source topic; ids are Kafka's, 16 bytes."""

    agent: str
    partition: int
    changelog_offset: int
    applied: Mapping[str, int]
    changelog_id: bytes | None
    source_ids: Mapping[str, bytes]


def read_tables(data_dir: Path, agents: Collection[str]) -> tuple[list[LocalTable], list[TableUnreadable]]:
    """The tables of ``agents`` below a worker's data directory, and what could not be read."""
    tables, unreadable = list[LocalTable](), list[TableUnreadable]()
    for path in sorted((data_dir / "tables").glob("*.db")):
        agent, _, partition = path.stem.rpartition("-")
        if agent not in agents or not partition.isdigit():
            continue
        try:
            tables.append(_read(path, agent, int(partition)))
        except Exception as exc:  # noqa: BLE001 - rocksdict raises bare Exception
            unreadable.append(TableUnreadable(path, exc))
    return tables, unreadable


def _read(path: Path, agent: str, partition: int) -> LocalTable:
    with tempfile.TemporaryDirectory(prefix="veltrix-look-") as scratch:
        db = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.secondary(scratch))
        try:
            offset, marker, changelog_id, source_ids = [
                db.get(key) for key in (OFFSET_KEY, MARKER_KEY, CHANGELOG_ID_KEY, SOURCE_IDS_KEY)
            ]
        finally:
            db.close()
    applied = decode_marker(marker).next_offsets
    return LocalTable(agent, partition, decode_offset(offset), applied, changelog_id, decode_topic_ids(source_ids))


def recreated_changelogs(data_dir: Path, app_id: str, agents: Collection[str], ids: TopicIds) -> list[str]:
    """One sentence for each table of a changelog that was re-created; asked before a worker joins its group.

    Sources are not compared here: a reset record that is still to be restored may have made all of them new.
    """
    found = list[str]()
    for table in read_tables(data_dir, agents)[0]:
        try:
            check_changelog(table.changelog_id, changelog_of(app_id, table.agent), table.partition, ids)
        except WrongTopic as exc:
            found.append(str(exc))
    return found

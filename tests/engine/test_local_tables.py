"""Tables are read from outside without a lock, a change, or one broken table hiding another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from app.engine.local_tables import LocalTable, read_tables, recreated_changelogs
from app.engine.marker import CHANGELOG_ID_KEY, MARKER_KEY, SOURCE_IDS_KEY, Marker, encode_marker, encode_topic_ids
from app.engine.store import PartitionStore, partition_path
from tests.engine.support import SOURCE, small_options

OLD, NEW = bytes(range(16)), bytes(range(16, 32))
TABLE = LocalTable("count", 1, 99, {SOURCE: 50}, OLD, {SOURCE: OLD})
AGENTS = ("count",)


def open_table(data_dir: Path, partition: int = 1) -> PartitionStore:
    """A table as a worker leaves it."""
    store = PartitionStore(partition_path(data_dir, "count", partition), small_options())
    marker, sources = encode_marker(Marker({SOURCE: 50})), encode_topic_ids({SOURCE: OLD})
    store.apply({MARKER_KEY: marker, CHANGELOG_ID_KEY: OLD, SOURCE_IDS_KEY: sources}, 99)
    return store


def test_a_stopped_workers_table_says_where_it_stands(tmp_path: Path) -> None:
    open_table(tmp_path).close()
    assert read_tables(tmp_path, AGENTS) == ([TABLE], [])


def test_a_running_workers_table_is_read_without_disturbing_it(tmp_path: Path) -> None:
    store = open_table(tmp_path)
    assert read_tables(tmp_path, AGENTS) == ([TABLE], [])
    store.apply({b"k": b"v"}, 120)
    assert read_tables(tmp_path, AGENTS) == ([replace(TABLE, changelog_offset=120)], [])
    assert store.get(b"k") == b"v"
    store.close()


def test_looking_at_a_table_changes_no_file_of_its_data(tmp_path: Path) -> None:
    open_table(tmp_path).close()
    folder = partition_path(tmp_path, "count", 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    read_tables(tmp_path, AGENTS)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_broken_table_hides_no_other(tmp_path: Path) -> None:
    for partition in (1, 2):
        open_table(tmp_path, partition).close()
    (partition_path(tmp_path, "count", 2) / "CURRENT").write_text("nonsense")
    tables, (broken,) = read_tables(tmp_path, AGENTS)
    assert tables == [TABLE]
    assert broken.path == partition_path(tmp_path, "count", 2)


def test_other_directories_are_nobodys_tables(tmp_path: Path) -> None:
    for name in ("other-1.db", "count-x.db", "count.db", "count-1"):
        (tmp_path / "tables" / name).mkdir(parents=True)
    assert read_tables(tmp_path, AGENTS) == ([], [])
    assert read_tables(tmp_path / "nowhere", AGENTS) == ([], [])


def test_every_table_of_a_recreated_changelog_is_named_before_the_worker_joins(tmp_path: Path) -> None:
    for partition in (1, 2):
        open_table(tmp_path, partition).close()
    assert recreated_changelogs(tmp_path, "app", AGENTS, {"app-count-changelog": OLD, SOURCE: NEW}) == []
    first, second = recreated_changelogs(tmp_path, "app", AGENTS, {"app-count-changelog": NEW})
    assert "app-count-changelog[1] was re-created" in first
    assert "app-count-changelog[2] was re-created" in second

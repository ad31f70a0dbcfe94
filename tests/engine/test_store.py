"""RocksDB of one lane: all or nothing, never ahead, one owner, and nothing lost by an unclean end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.engine.api import RESET_KEY
from app.engine.marker import MARKER_KEY, OFFSET_KEY, Marker, encode_marker
from app.engine.store import PartitionStore, StoreLocked, StoreOptions, StoreUnusable, partition_path
from app.settings import load_settings
from tests.engine.support import open_store, small_options
from tests.fakes import FakeRecord

ROOT = Path(__file__).parents[2]


def change(offset: int, key: bytes | None, value: bytes | None) -> FakeRecord:
    """One changelog record."""
    return FakeRecord(value, key, offset)


def content(store: PartitionStore) -> dict[bytes, bytes]:
    """Everything but the engine's own keys."""
    return {key: value for key, value in store.scan(b"", b"", 10_000) if not key.startswith(b"\0")}


def test_a_new_store_is_empty_and_at_no_offset(store: PartitionStore) -> None:
    assert (content(store), store.changelog_offset(), store.marker()) == ({}, -1, Marker())
    assert store.get_many([b"a", b"b"]) == [None, None]


def test_a_unit_is_applied_with_its_marker_and_changelog_offset(store: PartitionStore) -> None:
    marker = Marker({"source": 7}, consumed=7, emitted=7)
    store.apply({b"a": b"1", b"b": b"2", MARKER_KEY: encode_marker(marker)}, 41)
    assert (content(store), store.changelog_offset(), store.marker()) == ({b"a": b"1", b"b": b"2"}, 41, marker)


def test_a_unit_deletes_what_it_says_and_nothing_else(store: PartitionStore) -> None:
    store.apply({b"a": b"1", b"b": b"2"}, 0)
    store.apply({b"a": None, b"absent": None}, 1)
    assert content(store) == {b"b": b"2"}


def test_many_keys_come_back_in_the_order_asked_for(store: PartitionStore) -> None:
    store.apply({b"a": b"1", b"b": b"", b"c": b"3"}, 0)
    assert store.get_many([b"c", b"x", b"b", b"a", b"c"]) == [b"3", None, b"", b"1", b"3"]


# -- restore ------------------------------------------------------------------------------------------


def test_restore_writes_the_last_value_of_each_key_and_the_readers_position(store: PartitionStore) -> None:
    store.restore([change(4, b"a", b"1"), change(5, b"b", b"2"), change(9, b"a", b"3")], next_offset=12)
    assert (content(store), store.changelog_offset()) == ({b"a": b"3", b"b": b"2"}, 11)


def test_restore_applies_deletes_and_ignores_records_without_a_key(store: PartitionStore) -> None:
    store.restore([change(0, b"a", b"1"), change(1, None, b"noise"), change(2, b"a", None)], 3)
    assert (content(store), store.changelog_offset()) == ({}, 2)


def test_restoring_the_same_records_again_changes_nothing(store: PartitionStore) -> None:
    records = [change(0, b"a", b"1"), change(1, b"b", None), change(2, b"c", b"3")]
    store.restore(records, 3)
    before = content(store)
    store.restore(records, 3)
    assert (content(store), store.changelog_offset()) == (before, 2)


def test_a_reset_record_forgets_everything_before_it(store: PartitionStore) -> None:
    store.apply({b"old": b"1", MARKER_KEY: encode_marker(Marker({"source": 9}))}, 5)
    store.restore([change(6, b"a", b"1"), change(7, RESET_KEY, b""), change(8, b"b", b"2")], 9)
    assert (content(store), store.marker(), store.changelog_offset()) == ({b"b": b"2"}, Marker(), 8)


def test_of_several_reset_records_the_last_one_counts(store: PartitionStore) -> None:
    resets = [change(0, RESET_KEY, b""), change(1, b"a", b"1"), change(2, RESET_KEY, b""), change(3, b"b", b"2")]
    store.restore(resets, 4)
    assert content(store) == {b"b": b"2"}


def test_a_reset_record_at_the_end_leaves_an_empty_table_at_its_offset(store: PartitionStore) -> None:
    store.restore([change(0, b"a", b"1"), change(1, RESET_KEY, b"")], 2)
    assert (content(store), store.changelog_offset()) == ({}, 1)


def test_clear_forgets_everything(store: PartitionStore) -> None:
    store.apply({b"\0x": b"1", b"a": b"1", b"\xff\xfe": b"2", MARKER_KEY: encode_marker(Marker({"source": 9}))}, 5)
    store.clear()
    assert store.scan(b"", b"", 10) == []
    assert (store.changelog_offset(), store.marker()) == (-1, Marker())


# -- scan ---------------------------------------------------------------------------------------------


def test_a_scan_gives_pages_of_one_prefix_in_key_order(store: PartitionStore) -> None:
    store.apply({b"a1": b"", b"p1": b"1", b"p2": b"2", b"p3": b"3", b"q1": b""}, 0)
    first = store.scan(b"p", b"", 2)
    assert first == [(b"p1", b"1"), (b"p2", b"2")]
    assert store.scan(b"p", first[-1][0], 2) == [(b"p3", b"3")]
    assert store.scan(b"p", b"p3", 2) == []
    assert store.scan(b"zzz", b"", 2) == []


def test_a_scan_may_start_after_a_key_that_is_gone(store: PartitionStore) -> None:
    store.apply({b"p1": b"1", b"p3": b"3"}, 0)
    assert store.scan(b"p", b"p2", 5) == [(b"p3", b"3")]


def test_a_store_closes_after_a_scan_and_opens_again(store: PartitionStore, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")
    other.apply({b"p1": b"1"}, 0)
    other.scan(b"p", b"", 1)
    other.close()
    again = open_store(tmp_path / "other")
    assert again.get(b"p1") == b"1"
    again.close()


def test_the_number_of_keys_is_estimated(store: PartitionStore) -> None:
    store.apply({b"k%d" % n: b"v" for n in range(50)}, 0)
    assert 40 <= store.estimated_keys() <= 60


# -- ownership and unclean ends -----------------------------------------------------------------------


def test_a_store_has_one_owner(store: PartitionStore) -> None:
    with pytest.raises(StoreLocked, match="VELTRIX_DATA_DIR") as caught:
        PartitionStore(store.path, small_options())
    assert caught.value.path == store.path


def test_a_store_that_cannot_be_opened_says_why_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("not a directory")
    with pytest.raises(StoreUnusable, match="the changelog restores it") as caught:
        PartitionStore(path, small_options())
    assert caught.value.path == path


def test_reopening_keeps_everything(tmp_path: Path) -> None:
    first = open_store(tmp_path)
    first.apply({b"a": b"1", MARKER_KEY: encode_marker(Marker({"source": 3}))}, 8)
    first.close()
    second = open_store(tmp_path)
    assert (content(second), second.changelog_offset(), second.marker().next_offsets) == ({b"a": b"1"}, 8, {"source": 3})
    second.close()


_ABANDON = """
import os, sys
from pathlib import Path
from rocksdict import Cache, WriteBufferManager
from app.engine.store import PartitionStore, StoreOptions
store = PartitionStore(Path(sys.argv[1]) / "count-0.db", StoreOptions(1024**2, 32, Cache(1024**2), WriteBufferManager(1024**2 * 64, False)))
for unit in range(200):
    store.apply({b"count": b"%d" % unit, b"k%d" % unit: b"v" * 500}, unit)
os._exit(9)
"""


@pytest.fixture
def abandoned(tmp_path: Path) -> Iterator[PartitionStore]:
    """A store whose process ended after 200 units without closing it."""
    done = subprocess.run([sys.executable, "-c", _ABANDON, str(tmp_path)], cwd=ROOT, check=False, timeout=30)
    assert done.returncode == 9
    store = open_store(tmp_path)
    yield store
    store.close()


def test_a_store_that_was_never_closed_equals_its_last_unit(abandoned: PartitionStore) -> None:
    assert abandoned.changelog_offset() == 199
    assert abandoned.get(b"count") == b"199"
    assert len(content(abandoned)) == 201


def test_a_path_names_table_and_partition() -> None:
    assert partition_path(Path("/data"), "process_interactions", 7) == Path("/data/tables/process_interactions-7.db")


def test_the_memory_budget_comes_from_the_settings(tmp_path: Path) -> None:
    settings = load_settings(rocksdb_write_buffer_bytes=2 * 1024**2, rocksdb_max_open_files=40)
    options = StoreOptions.of(settings)
    assert (options.write_buffer_bytes, options.max_open_files) == (2 * 1024**2, 40)
    store = PartitionStore(tmp_path / "x.db", options)
    store.apply({OFFSET_KEY + b"x": b"1"}, 0)
    log = (tmp_path / "x.db" / "LOG").read_text()
    assert "Options.write_buffer_size: 2097152" in log
    assert "Options.max_open_files: 40" in log
    store.close()

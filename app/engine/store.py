"""One RocksDB per lane: multi-get of a unit's keys, one WriteBatch per unit, bulk restore.

Local state is never ahead of the changelog: a unit is written here only after its changelog batch was
acknowledged, together with that batch's offset. The write-ahead log stays on (a killed process keeps
every write); it is not synced, since the changelog is the durable copy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch, WriteBufferManager

from app.engine.api import RESET_KEY, Record
from app.engine.marker import (
    MARKER_KEY,
    OFFSET_KEY,
    REPAIR_KEY,
    Marker,
    decode_keys,
    decode_marker,
    decode_offset,
    encode_keys,
    encode_offset,
)
from app.settings import Settings

#: Pairs read at a time by who reads all of them.
_PAGE = 1000


class StoreLocked(Exception):
    """Another process has this partition's RocksDB open. Give each worker its own VELTRIX_DATA_DIR."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is open in another process: give each worker its own VELTRIX_DATA_DIR")
        self.path = path


class StoreUnusable(Exception):
    """A partition's RocksDB cannot be opened: no space, no permission, damaged. The message has RocksDB's reason.

    Operator action: mend the disk; a damaged one may be deleted, and the table is restored from the changelog.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path} cannot be opened: {reason}. Free space or mend the disk; if it is damaged, delete this directory and "
            "start again: the changelog restores it"
        )
        self.path = path


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """Memory budget: two write buffers per partition and a limit for all of them, one block cache for all."""

    write_buffer_bytes: int
    max_open_files: int
    cache: Cache
    memtables: WriteBufferManager

    @classmethod
    def of(cls, settings: Settings) -> StoreOptions:
        """The budget that the settings state; shared by every store opened with the result."""
        cache = Cache(settings.rocksdb_block_cache_bytes)
        memtables = WriteBufferManager(settings.rocksdb_memtables_bytes, False)  # never stalls a writer
        return cls(settings.rocksdb_write_buffer_bytes, settings.rocksdb_max_open_files, cache, memtables)

    def build(self) -> Options:
        """Options for one small database: raw bytes, bloom filters (new users are misses), LZ4."""
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(self.write_buffer_bytes)
        options.set_max_write_buffer_number(2)
        options.set_write_buffer_manager(self.memtables)
        options.set_max_open_files(self.max_open_files)
        options.set_max_total_wal_size(4 * self.write_buffer_bytes)
        options.set_keep_log_file_num(2)
        options.set_max_background_jobs(2)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(0.05)
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self.cache)
        blocks.set_bloom_filter(10, False)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options.set_block_based_table_factory(blocks)
        return options


class PartitionStore:
    """The table of one lane on disk."""

    def __init__(self, path: Path, options: StoreOptions) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = Rdict(str(path), options.build())
        except Exception as exc:  # rocksdict raises bare Exception
            if "lock" in str(exc).lower():
                raise StoreLocked(path) from exc
            raise StoreUnusable(path, str(exc)) from exc

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        """Values in the order of ``keys``, None for absent ones."""
        return cast("list[bytes | None]", self._db.get(cast("Any", keys)))

    def get(self, key: bytes) -> bytes | None:
        """One value, None if absent."""
        value: bytes | None = self._db.get(key)
        return value

    def changelog_offset(self) -> int:
        """Offset of the last changelog record in this store; -1 when empty."""
        return decode_offset(self.get(OFFSET_KEY))

    def marker(self) -> Marker:
        """The newest marker; an empty one for a new table."""
        return decode_marker(self.get(MARKER_KEY))

    def apply(self, writes: Mapping[bytes, bytes | None], changelog_offset: int) -> None:
        """Write one unit, marker included, with its changelog offset: all or nothing."""
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in writes.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        put(OFFSET_KEY, encode_offset(changelog_offset))
        self._db.write(batch)

    def keys_to_repair(self) -> list[bytes]:
        """Keys whose newest changelog record is a zombie's (see :meth:`restore`)."""
        return sorted(decode_keys(self.get(REPAIR_KEY)))

    def restore(self, records: Sequence[Record], next_offset: int) -> None:
        """Write changelog records in order; ``next_offset`` is where the changelog is read on from.

        A worker that was taken for dead may append a unit after its successor did. Such a unit ends in a marker that
        is behind; it is left out, and the keys it touched are remembered for the lane to write again.
        """
        start = next((i + 1 for i in range(len(records) - 1, -1, -1) if records[i].key == RESET_KEY), 0)
        if start:
            self.clear()
        batch = WriteBatch(raw_mode=True)
        good, stale = without_zombies(records[start:] if start else records, self.marker())
        put, delete = batch.put, batch.delete
        for record in good:
            key, value = record.key, record.value
            if key is None:
                continue
            if value is None:
                delete(key)
            else:
                put(key, value)
        if stale:
            put(REPAIR_KEY, encode_keys(stale | decode_keys(self.get(REPAIR_KEY))))
        put(OFFSET_KEY, encode_offset(next_offset - 1))
        self._db.write(batch)

    def clear(self) -> None:
        """Forget everything (``veltrix reset``)."""
        self._db.delete_range(b"", b"\xff" * 16)

    def scan(self, prefix: bytes, start_after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` pairs under ``prefix`` after ``start_after`` in key order. Leaves no iterator open."""
        found: list[tuple[bytes, bytes]] = []
        cursor = self._db.iter(ReadOptions())
        cursor.seek(max(prefix, start_after))
        while cursor.valid() and len(found) < limit:
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                break
            if key != start_after:
                found.append((key, bytes(cursor.value())))
            cursor.next()
        return found

    def scan_all(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every pair under ``prefix`` in key order, a page at a time."""
        after = b""
        while page := self.scan(prefix, after, _PAGE):
            yield from page
            after = page[-1][0]

    def estimated_keys(self) -> int:
        """How many keys there are at most: RocksDB's estimate counts a rewritten one again until it has merged its files."""
        return self._db.property_int_value("rocksdb.estimate-num-keys") or 0

    def close(self) -> None:
        """Flush and release the lock."""
        self._db.close()


def without_zombies(records: Sequence[Record], marker: Marker) -> tuple[Sequence[Record], set[bytes]]:
    """The records of the units that go on from ``marker``, and the keys of the others. A unit ends in its marker.

    Records behind the last marker are kept: compaction has removed theirs, and it never removes a newer unit's.
    """
    markers = [decode_marker(record.value) for record in records if record.key == MARKER_KEY and record.value is not None]
    if not any(later.is_behind(earlier) for earlier, later in itertools.pairwise([marker, *markers])):
        return records, set()
    good: list[Record] = []
    unit: list[Record] = []
    stale: set[bytes] = set()
    for record in records:
        unit.append(record)
        if record.key == MARKER_KEY and record.value is not None:
            ends = decode_marker(record.value)
            if ends.is_behind(marker):
                stale.update(each.key for each in unit[:-1] if each.key is not None)
            else:
                good += unit
                marker = ends
            unit = []
    return good + unit, stale


def partition_path(data_dir: Path, table: str, partition: int) -> Path:
    """Where the RocksDB of a lane lives below a worker's data directory."""
    return data_dir / "tables" / f"{table}-{partition}.db"

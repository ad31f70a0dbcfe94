"""Records read as a list are those that aiokafka's own iterator gives."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from app.engine.fetched import FetchedRecord, getall, read

TP = TopicPartition("source", 3)
ABORT = (b"\0\0\0\0", b"\0\0\0\0\0\0")
COMMIT = (b"\0\0\0\1", b"\0\0\0\0\0\0")
Row = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def batch(base: int, rows: Sequence[Row], *, producer: int = -1, transactional: bool = False, control: bool = False) -> bytes:
    """One RecordBatch as a broker would send it."""
    builder = DefaultRecordBatchBuilder(
        2, 0, is_transactional=transactional, producer_id=producer, producer_epoch=0, base_sequence=0, batch_size=1_000_000
    )
    for index, (key, value, headers) in enumerate(rows):
        builder.append(index, 1_700_000_000_000 + index, key, value, headers)
    raw = bytearray(builder.build())
    raw[0:8] = base.to_bytes(8, "big")
    if control:
        raw[22] |= 0x20  # attributes, bit 5
    return bytes(raw)


def source(
    raw: bytes, *, position: int = 0, isolation: int = READ_UNCOMMITTED, aborted: Sequence[tuple[int, int]] = (), crc: bool = False
) -> Any:
    return PartitionRecords(TP, MemoryRecords(raw), list(aborted), position, None, None, crc, isolation)


def plain(records: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What both kinds of records have in common."""
    return [(r.topic, r.partition, r.offset, r.timestamp, r.timestamp_type, r.key, r.value, tuple(r.headers)) for r in records]


rows = st.lists(
    st.tuples(
        st.none() | st.binary(max_size=8),
        st.none() | st.binary(max_size=30),
        st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=8)), max_size=2),
    ),
    min_size=1,
    max_size=5,
)
kinds = st.sampled_from(["plain", "transactional", "abort", "commit"])


@given(
    st.lists(st.tuples(kinds, rows, st.integers(1, 2)), max_size=6),
    st.integers(0, 12),
    st.sampled_from([READ_COMMITTED, READ_UNCOMMITTED]),
)
def test_any_mix_of_batches_reads_as_aiokafka_reads_it(
    parts: list[tuple[str, list[Row], int]], position: int, isolation: int
) -> None:
    raw, offset, aborted = b"", 0, []
    for kind, content, producer in parts:
        if kind in ("abort", "commit"):
            marker = ABORT if kind == "abort" else COMMIT
            raw += batch(offset, [(*marker, [])], producer=producer, transactional=True, control=True)
            offset += 1
            continue
        if kind == "transactional":
            aborted.append((producer, offset))
        raw += batch(offset, content, producer=producer if kind == "transactional" else -1, transactional=kind == "transactional")
        offset += len(content)
    theirs = source(raw, position=position, isolation=isolation, aborted=aborted)
    ours = source(raw, position=position, isolation=isolation, aborted=aborted)

    expected = plain(list(theirs))

    assert plain(read(ours)) == expected
    assert ours.next_fetch_offset == theirs.next_fetch_offset


def test_a_damaged_batch_is_an_error_and_not_a_record() -> None:
    raw = bytearray(batch(0, [(b"k", b"value", [])]))
    raw[-1] ^= 1
    with pytest.raises(CorruptRecordException):
        read(source(bytes(raw), crc=True))


def test_a_fetch_that_is_no_longer_wanted_gives_nothing_and_moves_nothing() -> None:
    class Paused:
        active = True

        def state_value(self, tp: TopicPartition) -> Any:
            return type("State", (), {"paused": True, "position": 0})()

    fetch = FetchResult(TP, assignment=Paused(), partition_records=source(batch(0, [(b"k", b"v", [])])), backoff=0)
    assert getall(fetch) == []


def test_a_response_that_was_read_is_freed_without_the_garbage_collector() -> None:
    fetched = source(batch(0, [(b"k", b"v", [])]))
    gone = weakref.ref(fetched)
    gc.disable()
    try:
        read(fetched)
        del fetched
        assert gone() is None
    finally:
        gc.enable()


def test_a_record_has_the_fields_of_the_engines_protocol() -> None:
    (record,) = read(source(batch(7, [(b"k", None, [("h", None)])])))
    assert record == FetchedRecord("source", 3, 7, 1_700_000_000_000, 0, b"k", None, (("h", None),))

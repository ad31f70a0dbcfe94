"""RecordBatches: the bytes aiokafka itself would make, and headers that identify every output."""

from __future__ import annotations

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from app.engine.api import Output, Record
from app.engine.marker import MARKER_KEY
from app.engine.writer import Batches, BatchOverflow, TopicBatches, add_outputs, changelog_batch, new_builder
from tests.engine.support import CHANGELOG, OUT, event
from tests.fakes import Produced, produced

NOW_MS = 1_700_000_000_000

maybe_bytes = st.none() | st.binary(max_size=50)
headers = st.lists(st.tuples(st.text(max_size=10), st.none() | st.binary(max_size=20)), max_size=3)
rows = st.lists(st.tuples(st.integers(0, 2**40), maybe_bytes, maybe_bytes, headers), min_size=1, max_size=20)


def outputs_of(pairs: list[tuple[Record, Output]], limit: int = 100_000) -> dict[str, list[list[Produced]]]:
    """The records of each batch by topic."""
    batches = TopicBatches(limit)
    add_outputs(batches, pairs, 0, NOW_MS)
    found: dict[str, list[list[Produced]]] = {}
    for topic, _, batch in batches.done():
        found.setdefault(topic, []).append(produced(batch))
    return found


def source_of(record: Produced) -> bytes:
    """Its identity header."""
    return dict(record.headers)["veltrix-source"] or b""


@given(rows)
def test_batches_are_byte_identical_to_those_of_aiokafkas_own_append(
    rows: list[tuple[int, bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
) -> None:
    theirs, ours = BatchBuilder(100_000, 0), Batches("t", 100_000)
    for timestamp, key, value, headers in rows:
        assert theirs.append(timestamp=timestamp, key=key, value=value, headers=headers) is not None
        ours.append(timestamp, key, value, headers)
    (builder,) = ours.done
    assert builder.record_count() == theirs.record_count() == len(rows)
    assert builder.size() == theirs.size()
    assert bytes(builder._build()) == bytes(theirs._build())


@given(st.dictionaries(st.binary(min_size=1, max_size=20), maybe_bytes, min_size=1, max_size=20))
def test_a_changelog_batch_is_byte_identical_too(writes: dict[bytes, bytes | None]) -> None:
    theirs = BatchBuilder(100_000, 0)
    for key, value in writes.items():
        theirs.append(timestamp=NOW_MS, key=key, value=value)
    ours = changelog_batch(CHANGELOG, writes, NOW_MS, 100_000)
    assert ours.record_count() == len(writes)
    assert bytes(ours._build()) == bytes(theirs._build())


def test_a_changelog_batch_keeps_the_order_and_ends_in_the_marker() -> None:
    batch = changelog_batch(CHANGELOG, {b"b": b"2", b"a": None, MARKER_KEY: b"m"}, NOW_MS, 10_000)
    assert [(r.offset, r.key, r.value, r.timestamp) for r in produced(batch)] == [
        (0, b"b", b"2", NOW_MS),
        (1, b"a", None, NOW_MS),
        (2, MARKER_KEY, b"m", NOW_MS),
    ]


def test_a_changelog_batch_is_never_split() -> None:
    with pytest.raises(BatchOverflow, match=CHANGELOG) as caught:
        changelog_batch(CHANGELOG, {b"a": b"x" * 300, b"b": b"x" * 300, MARKER_KEY: b"m"}, NOW_MS, 500)
    assert caught.value.topic == CHANGELOG


def test_outputs_are_split_and_nothing_is_lost_or_reordered() -> None:
    pairs: list[tuple[Record, Output]] = [(event(n), Output(OUT, b"k", b"%d" % n + b"x" * 90)) for n in range(20)]
    parts = outputs_of(pairs, limit=600)[OUT]
    assert len(parts) > 1
    assert [int((record.value or b"").rstrip(b"x")) for part in parts for record in part] == list(range(20))
    assert all(part[0].offset == 0 for part in parts)


def test_a_record_that_fits_no_batch_is_refused_here_and_not_by_the_broker() -> None:
    with pytest.raises(BatchOverflow):
        Batches(OUT, 500).append(NOW_MS, b"k", b"x" * 2_000, [])


def test_each_topic_gets_its_own_batch() -> None:
    done = outputs_of(
        [(event(0), Output("a", b"k", b"1")), (event(0), Output("b", b"k", b"2")), (event(1), Output("a", b"k", b"3"))]
    )
    assert {topic: [record.value for record in parts[0]] for topic, parts in done.items()} == {"a": [b"1", b"3"], "b": [b"2"]}


def test_an_output_keeps_the_timestamp_of_its_source() -> None:
    ((record,),) = outputs_of([(event(7), Output(OUT, b"k", b"v"))])[OUT]
    assert record.timestamp == event(7).timestamp


def test_an_output_has_its_own_headers_then_source_then_processing_time() -> None:
    ((record,),) = outputs_of([(event(7), Output(OUT, b"k", None, (("own", b"1"),)))])[OUT]
    assert record.headers == (("own", b"1"), ("veltrix-source", b"source:0:7:0"), ("processed_at", b"1700000000000"))
    assert (record.key, record.value) == (b"k", None)


def test_the_index_counts_the_outputs_of_one_source_record_across_topics() -> None:
    first, second = event(0), event(5)
    pairs: list[tuple[Record, Output]] = [
        (first, Output("a", b"k", b"")),
        (first, Output("b", b"k", b"")),
        (first, Output("a", b"k", b"")),
        (second, Output("a", b"k", b"")),
    ]
    done = outputs_of(pairs)
    assert [source_of(record) for record in done["a"][0]] == [b"source:0:0:0", b"source:0:0:2", b"source:0:5:0"]
    assert [source_of(record) for record in done["b"][0]] == [b"source:0:0:1"]


@given(st.lists(st.integers(0, 3), max_size=20))
def test_every_output_has_an_identity_of_its_own(numbers: list[int]) -> None:
    pairs: list[tuple[Record, Output]] = [
        (event(n), Output(OUT, b"k", b"v")) for n, outputs in enumerate(numbers) for _ in range(outputs)
    ]
    records = [record for part in outputs_of(pairs).get(OUT, []) for record in part]
    assert len({source_of(record) for record in records}) == len(records) == sum(numbers)


def test_a_new_builder_is_empty_and_uncompressed() -> None:
    builder = new_builder(1000)
    assert (builder.record_count(), builder.closed()) == (0, False)
    assert bytes(builder._build())[22] & 0b111 == 0  # attributes: no compression

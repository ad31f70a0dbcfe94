"""The marker is read by newer and older workers alike."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.api import RESET_KEY
from app.engine.marker import (
    CHANGELOG_ID_KEY,
    MARKER_KEY,
    OFFSET_KEY,
    REPAIR_KEY,
    SOURCE_IDS_KEY,
    Marker,
    decode_marker,
    decode_offset,
    decode_topic_ids,
    encode_marker,
    encode_offset,
    encode_topic_ids,
)
from app.engine.status import Ledger

offsets = st.dictionaries(st.text(max_size=20), st.integers(0, 2**62), max_size=3)
counts = st.integers(0, 2**62)


@given(st.builds(Marker, offsets, offsets, counts, counts, counts, counts, counts, counts))
def test_a_marker_survives_the_round_trip(marker: Marker) -> None:
    assert decode_marker(encode_marker(marker)) == marker


def test_a_marker_of_an_older_version_decodes_with_defaults() -> None:
    old = msgspec.msgpack.encode([{"source": 5}, {}, 5])
    assert decode_marker(old) == Marker({"source": 5}, {}, consumed=5)


def test_a_marker_of_a_newer_version_decodes_without_its_new_fields() -> None:
    newer = msgspec.msgpack.encode([{"source": 5}, {"source": 3}, 5, 4, 1, 0, 0, 0, "new", [1]])
    assert decode_marker(newer) == Marker({"source": 5}, {"source": 3}, 5, 4, 1)


def test_no_marker_is_an_empty_one() -> None:
    assert decode_marker(None) == Marker()


def test_a_broken_marker_is_an_error_and_not_an_empty_one() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_marker(b"\xc1")


def test_the_ledger_has_every_outcome() -> None:
    ledger = Marker({}, {}, 21, 1, 2, 3, 4, 5).ledger()
    assert ledger == Ledger(21, 1, 2, 3, 4, 5)
    assert ledger.residue == 21 - 15


@given(st.integers(-1, 2**63 - 1))
def test_an_offset_survives_the_round_trip(offset: int) -> None:
    assert decode_offset(encode_offset(offset)) == offset
    assert len(encode_offset(offset)) == 8


@given(st.dictionaries(st.text(max_size=20), st.binary(min_size=16, max_size=16), max_size=3))
def test_topic_ids_survive_the_round_trip(ids: dict[str, bytes]) -> None:
    assert decode_topic_ids(encode_topic_ids(ids)) == ids


def test_a_table_that_was_never_stamped_knows_no_ids() -> None:
    assert decode_topic_ids(None) == {}


def test_no_offset_is_before_the_first() -> None:
    assert decode_offset(None) == -1


def test_engine_keys_are_distinct_and_outside_every_view() -> None:
    keys = {MARKER_KEY, RESET_KEY, OFFSET_KEY, REPAIR_KEY, CHANGELOG_ID_KEY, SOURCE_IDS_KEY}
    assert len(keys) == 6
    assert all(key.startswith(b"\0") for key in keys)

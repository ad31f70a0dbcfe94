"""Names and layouts in Redis."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.lookups.keys import Cover, LaneKeys, pack_head, partial_covers, rebuild_token, unpack_cover, unpack_value
from tests.lookups.fakes import KEYS, LANE, VIEWS

OFFSETS = st.integers(-1, 2**62)


def test_all_keys_of_a_lane_share_one_hash_tag_under_the_application_id() -> None:
    assert KEYS.of(b"pu:42") == b"veltrix:lookup:{process_interactions-3}:users:u:42"
    assert KEYS.cover == b"veltrix:cover:{process_interactions-3}"
    assert KEYS.pattern == b"veltrix:lookup:{process_interactions-3}:*"


def test_keys_of_other_views_and_other_agents_are_not_followed() -> None:
    assert KEYS.of(b"su:42") is None
    assert KEYS.of(b"\0mark") is None
    assert LaneKeys("veltrix", LANE._replace(agent="other"), VIEWS).prefixes == ()


@given(OFFSETS, st.integers(0, 2**42))
def test_a_cover_survives_its_bytes(position: int, written_ms: int) -> None:
    assert unpack_cover(Cover(position, written_ms, 77).pack()) == (position, written_ms, 77)


def test_a_cover_of_an_earlier_build_is_read_without_a_source_offset() -> None:
    assert unpack_cover(struct.pack(">qq", 5, 9)) == (5, 9, -1)


@given(OFFSETS, st.integers(1, 5))
def test_a_partial_cover_covers_what_its_base_covers_and_equals_no_other(position: int, count: int) -> None:
    base = Cover(position, 1).pack()
    covers = partial_covers(base, count) + partial_covers(base, count)

    assert {unpack_cover(cover) for cover in covers} == {Cover(position, 1)}
    assert len({*covers, base}) == 2 * count + 1


@pytest.mark.parametrize("raw", [None, b"", b"short", rebuild_token(), partial_covers(rebuild_token(), 1)[0]])
def test_anything_else_covers_nothing(raw: bytes | None) -> None:
    assert unpack_cover(raw) is None


@given(OFFSETS, OFFSETS, st.binary())
def test_a_value_keeps_its_bytes_and_its_stamp(stamp: int, source_offset: int, raw: bytes) -> None:
    assert unpack_value(pack_head(stamp, source_offset) + raw) == (stamp, source_offset, raw)


def test_a_value_without_a_head_is_refused() -> None:
    with pytest.raises(struct.error):
        unpack_value(b"short")

"""The queue of one lane: contiguous, merged, bounded; and the calls that write it."""

from __future__ import annotations

import hiredis
import pytest

from app.lookups.keys import Cover, unpack_cover
from app.lookups.lane import MAX_PENDING_KEYS, FollowedLane, flush_calls, plan
from tests.lookups.fakes import KEYS, FakeTable

U1, U2 = KEYS.of(b"pu:1"), KEYS.of(b"pu:2")


@pytest.fixture
def table() -> FakeTable:
    return FakeTable()


@pytest.fixture
def lane(table: FakeTable) -> FollowedLane:
    lane = FollowedLane(table, KEYS, max_units=3)
    lane.begin_queueing()
    return lane


def test_units_that_wait_are_merged_to_the_newest_value_per_key(lane: FollowedLane) -> None:
    assert lane.offer({b"pu:1": b"a", b"pu:2": b"b", b"su:1": b"seen", b"\0mark": b"m"}, 3, 100, -1) is None
    assert lane.offer({b"pu:1": b"c", b"pu:2": None, b"\0mark": b"m"}, 6, 104, 3) is None

    assert lane.take() == ({U1: b"c", U2: None}, 6, 104, 2)
    assert lane.take() == ({}, 6, 104, 0)


def test_a_unit_without_lookups_still_moves_the_tail(lane: FollowedLane) -> None:
    lane.written(Cover(-1, 0).pack(), -1)
    before = lane.is_dirty
    lane.offer({b"su:1": b"seen"}, 1, 100, -1)

    assert (before, lane.is_dirty) == (False, True)
    assert lane.behind == 2


def test_a_unit_that_does_not_follow_the_last_one_is_a_gap(lane: FollowedLane) -> None:
    lane.offer({b"pu:1": b"a"}, 3, 100, -1)

    assert lane.offer({b"pu:1": b"b"}, 9, 104, 6) == "gap"
    assert lane.position == 9


def test_more_units_than_the_limit_overflow(lane: FollowedLane) -> None:
    assert [lane.offer({b"pu:1": b"a"}, n, n, n - 1) for n in range(4)] == [None, None, None, "overflow"]


def test_more_keys_than_the_limit_overflow(lane: FollowedLane) -> None:
    lane.offer({b"pu:%d" % n: b"a" for n in range(MAX_PENDING_KEYS)}, 0, 0, -1)

    assert lane.offer({b"pu:x": b"a"}, 1, 1, 0) == "overflow"


def test_a_lost_lane_drops_its_queue_and_only_follows_the_position(lane: FollowedLane) -> None:
    lane.offer({b"pu:1": b"a"}, 3, 100, -1)
    before = lane.epoch
    lane.lose("down")

    assert (lane.state, lane.queueing, lane.pending) == ("down", False, {})
    assert lane.epoch != before
    assert lane.lost.is_set()
    assert lane.offer({b"pu:1": b"b"}, 9, 104, 6) is None
    assert (lane.pending, lane.position) == ({}, 9)


def test_a_flush_writes_on_the_held_cover_and_leaves_one_with_its_time(lane: FollowedLane) -> None:
    lane.written(Cover(-1, 5).pack(), -1)
    lane.offer({b"pu:1": b"a"}, 3, 100, -1)
    (call,), cover = flush_calls(lane, lane.take(), 77)

    assert (call.expected, call.new) == (Cover(-1, 5).pack(), cover)
    assert unpack_cover(cover) == (3, 77, 100)
    assert (call.keys, call.values) == ([U1], [b"a"])


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (1, [1]), (500, [500]), (501, [500, 1]), (1200, [500, 500, 200])])
def test_a_plan_has_calls_of_at_most_500_keys_each_building_on_the_one_before(count: int, sizes: list[int]) -> None:
    calls = plan(b"cover", b"e" * 16, b"n" * 16, b"h" * 16, {b"%d" % n: b"v" for n in range(count)})

    assert [len(call.keys) for call in calls] == sizes
    assert [call.expected for call in calls[1:]] == [call.new for call in calls[:-1]]
    assert (calls[0].expected, calls[-1].new) == (b"e" * 16, b"n" * 16)
    assert all(call.new[:16] == b"e" * 16 for call in calls[:-1])


def test_deletes_come_after_values_and_have_none() -> None:
    (call,) = plan(b"cover", b"e", b"n", b"h", {b"1": None, b"2": b"b", b"3": None, b"4": b"d"})

    assert call.keys == [b"2", b"4", b"1", b"3"]
    assert call.values == [b"b", b"d"]


def test_a_call_is_packed_as_one_evalsha_with_every_key_declared() -> None:
    (call,) = plan(b"cover", b"e", b"n", b"h", {b"1": None, b"2": b"\r\n b"})
    reader = hiredis.Reader()
    reader.feed(call.pack())
    command = reader.gets()

    assert command[0] == b"EVALSHA"
    assert command[2:] == [b"3", b"cover", b"2", b"1", b"e", b"n", b"h", b"\r\n b"]

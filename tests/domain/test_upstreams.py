"""How far a downstream partition has applied its upstream partitions, and which watermark rules."""

from __future__ import annotations

import pytest

from app.domain.activities import VERSION, Activity, ActivityBatch
from app.domain.activity_keys import item_of
from app.domain.upstreams import Taken, UnknownUpstream, Upstreams
from app.domain.watermarks import NO_WATERMARK


def activity(offset: int, watermark_ms: int) -> Activity:
    return Activity(offset, 0, watermark_ms, "Bought", "u:1", "sku")


def batch(upstream: int, watermark_ms: int, *activities: Activity) -> ActivityBatch:
    return ActivityBatch(VERSION, upstream, watermark_ms, {"item_of": list(activities)} if activities else {})


def take(upstreams: Upstreams, one: ActivityBatch) -> list[tuple[int, int]]:
    """(offset, watermark) of what is new."""
    taken: Taken = {}
    is_new = upstreams.take(one, {"item_of": item_of}, taken)
    found = [(activity.offset, watermark_ms) for activity, _, watermark_ms in taken.get("item_of", {}).get("sku", [])]
    assert is_new == bool(found or not one.activities)
    return found


def test_the_least_watermark_of_all_upstream_partitions_rules() -> None:
    upstreams = Upstreams(2, None)
    assert take(upstreams, batch(0, 50, activity(3, 40))) == [(3, NO_WATERMARK)], "the other one has said nothing yet"
    assert upstreams.watermark_ms == NO_WATERMARK
    assert take(upstreams, batch(1, 70, activity(9, 30), activity(10, 70))) == [(9, 30), (10, 50)]
    assert upstreams.watermark_ms == 50


def test_each_activity_is_folded_with_the_watermark_of_its_own_event() -> None:
    """So it does not matter how events were put together into batches."""
    one, other = Upstreams(1, None), Upstreams(1, None)
    together = take(one, batch(0, 30, activity(1, 10), activity(2, 30)))
    apart = take(other, batch(0, 10, activity(1, 10))) + take(other, batch(0, 30, activity(2, 30)))
    assert together == apart == [(1, 10), (2, 30)]


def test_what_was_applied_before_is_not_new_whatever_its_neighbours() -> None:
    upstreams = Upstreams(1, None)
    take(upstreams, batch(0, 10, activity(1, 5), activity(2, 10)))
    assert take(upstreams, batch(0, 15, activity(1, 5), activity(2, 10), activity(3, 15))) == [(3, 15)]
    assert take(Upstreams(1, upstreams.snapshot()), batch(0, 15, activity(3, 15))) == [], "also after a restart"


def test_a_watermark_alone_moves_the_minimum_and_never_back() -> None:
    upstreams = Upstreams(1, None)
    assert take(upstreams, batch(0, 90)) == []
    take(upstreams, batch(0, 20))
    assert upstreams.watermark_ms == 90


@pytest.mark.parametrize("number", [-1, 2])
def test_an_upstream_that_does_not_exist_is_refused_and_changes_nothing(number: int) -> None:
    upstreams = Upstreams(2, None)
    before = upstreams.snapshot()
    with pytest.raises(UnknownUpstream):
        take(upstreams, batch(number, 10, activity(1, 1)))
    assert upstreams.snapshot() == before

"""What ``aggregate_items`` does with single records; results over whole streams are in test_item_pipeline."""

from __future__ import annotations

import json
from typing import Any

from agents.aggregate_items import Rules, aggregate_items
from app.domain.activities import VERSION, Activity, ActivityBatch, encode_batch
from app.domain.clickstream import TRACK_CODES
from app.domain.trending import Trending
from app.engine.api import Effects, LaneId
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, ITEM_WINDOWS
from tables.trending import trending
from tests.fakes import FakeBatch, FakeRecord, FakeState, as_batch

MINUTE = 60_000
VIEWED, BOUGHT = TRACK_CODES["Product Viewed"], TRACK_CODES["Order Completed"]


def rules(**changes: Any) -> Rules:
    return Rules.from_settings(Settings(partitions=1, **changes))


def activity(offset: int, at_ms: int, item: str = "sku", name: int = VIEWED, **changes: Any) -> Activity:
    return Activity(offset, at_ms, at_ms - 30_000, name, "u:1", item, **changes)


def record(offset: int, watermark_ms: int, *activities: Activity, upstream: int = 0) -> FakeRecord:
    by_key = {"item_of": list(activities)} if activities else {}
    value = encode_batch(ActivityBatch(VERSION, upstream, watermark_ms, by_key))
    return FakeRecord(value, b"0", offset, topic=ITEM_ACTIVITY)


async def run(state: FakeState, *records: FakeRecord, by: Rules | None = None) -> Effects:
    batch = FakeBatch(list(records), by or rules(), state, LaneId("aggregate_items", 0), ITEM_ACTIVITY)
    effects = await aggregate_items(as_batch(batch))
    assert effects.outcomes() == len(records)
    return effects


def results(effects: Effects) -> list[tuple[str, str, int, dict[str, Any]]]:
    assert {output.topic for output in effects.published} <= {ITEM_WINDOWS}
    rows = [json.loads(output.value or b"") for output in effects.published]
    return [(row["name"], row["key"], row["start_ms"], row["results"]) for row in rows]


async def test_a_window_is_published_under_its_key_when_the_watermark_has_passed_it() -> None:
    state = FakeState()
    bought = activity(2, 30_000, name=BOUGHT, units=3, price="2.50")
    assert results(await run(state, record(0, 0, activity(1, 10_000), bought))) == []
    closed = results(await run(state, record(1, MINUTE)))
    assert ("item_1m", "sku", 0, {"views": 1, "adds": 0, "units": 3, "revenue_micros": 7_500_000}) in closed
    assert {(name, start) for name, _, start, _ in closed} == {("item_1m", 0), ("item_5m", -4 * MINUTE)}


async def test_what_comes_again_is_a_duplicate_and_a_watermark_alone_is_not() -> None:
    state = FakeState()
    first = await run(state, record(0, 0, activity(1, 10_000)), record(1, 10))
    again = await run(state, record(2, 0, activity(1, 10_000)), record(3, 20))
    assert (first.emitted, first.duplicates, again.emitted, again.duplicates) == (2, 0, 1, 1)
    closed = results(await run(state, record(4, MINUTE)))
    assert [found["views"] for name, _, _, found in closed if name == "item_1m"] == [1]


async def test_what_is_no_batch_or_of_nobody_is_parked_and_the_rest_counts() -> None:
    bad = FakeRecord(b"{}", b"0", 0, topic=ITEM_ACTIVITY)
    effects = await run(FakeState(), bad, record(1, 0, activity(1, 10_000), upstream=7), record(2, 0, activity(1, 10_000)))
    assert [(source.offset, failure.reason) for source, failure in effects.dead_letters] == [
        (0, "unreadable_activities"),
        (1, "unknown_upstream"),
    ]
    assert effects.emitted == 1


async def test_late_events_are_counted_and_their_record_is_parked_if_so_decided() -> None:
    state, strict = FakeState(), rules(late_policy="dead_letter")
    await run(state, record(0, 10 * MINUTE, activity(1, 10 * MINUTE)))
    late = record(2, 10 * MINUTE, activity(2, 1_000))
    bad = FakeRecord(b"{}", b"0", 1, topic=ITEM_ACTIVITY)
    parked = await run(FakeState(state.raw), bad, late, record(3, 10 * MINUTE, activity(3, 10 * MINUTE)), by=strict)
    assert [(source.offset, failure.reason, failure.disposition) for source, failure in parked.aside] == [(2, "late", "late")]
    assert (parked.late_events, parked.emitted) == ({"item_5m": 1}, 2)
    dropped = await run(FakeState(state.raw), late)
    assert (dropped.aside, dropped.late_events) == ([], {"item_5m": 1})


async def test_the_leaders_of_the_newest_windows_are_kept() -> None:
    state = FakeState()
    views = [activity(n, 10_000, item) for n, item in enumerate(["a", "b", "b"])]
    await run(state, record(0, 0, *views), record(1, MINUTE))
    kept = state.view(trending).get("item_5m")
    assert kept == Trending(1, -4 * MINUTE, MINUTE, [("b", 2), ("a", 1)])


async def test_a_call_without_records_closes_what_is_due_and_writes_no_clock() -> None:
    state = FakeState()
    await run(state, record(0, 0, activity(1, 10_000)))
    before = dict(state.raw)
    effects = await run(state)
    assert (effects.published, state.raw) == ([], before)

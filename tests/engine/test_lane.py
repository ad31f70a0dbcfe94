"""The order of acknowledgements, and what may be called durable."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from app.engine.api import Batch, Effects, LaneId
from app.engine.marker import MARKER_KEY, decode_marker
from app.engine.status import AGENT_STAGES, Stage
from app.engine.store import PartitionStore
from tests.engine.support import CHANGELOG, COUNTS, DLQ, OUT, SOURCE, FakeListener, Rig, count, event, events, open_store, settle
from tests.fakes import FakeDelivery

Start = Callable[..., Rig]


# -- the order of a unit ------------------------------------------------------------------------------


async def test_outputs_are_acknowledged_before_the_changelog_batch_is_sent(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle()
    assert {sent.topic for sent in rig.delivery.outputs} == {OUT, DLQ}
    first, second = rig.delivery.outputs
    second.ack()
    await settle()
    assert rig.delivery.states == []
    first.ack()
    await settle()
    assert [sent.topic for sent in rig.delivery.states] == [CHANGELOG]


async def test_rocksdb_is_written_only_after_the_changelog_is_acknowledged(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer(events(0, 3))
    await settle()
    rig.delivery.outputs[0].ack()
    await settle()
    assert (rig.store.get(COUNTS.raw_key("u")), rig.store.changelog_offset(), rig.durable) == (None, -1, -1)
    rig.delivery.states[0].ack()
    await settle()
    assert (rig.count(), rig.store.changelog_offset(), rig.durable) == (3, 1, 3)
    assert rig.store.marker().next_offsets == {SOURCE: 3}


async def test_the_changelog_batch_ends_in_the_marker_and_is_what_rocksdb_gets(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer([event(0, "a"), event(1, "b"), event(2, "a")])
    await rig.acknowledge_all()
    log = rig.delivery.logs[CHANGELOG, 0]
    assert [(r.key, r.value) for r in log[:-1]] == [(b"ca", b"2"), (b"cb", b"1")]
    assert log[-1].key == MARKER_KEY
    assert all(rig.store.get(r.key or b"") == r.value for r in log)


async def test_the_listener_gets_each_changelog_batch_with_its_offset_and_the_one_before(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=2)
    for first in (0, 2):
        rig.lane.offer(events(first, first + 2))
        await rig.acknowledge_all()
    assert rig.listener.units == [(1, -1, 1), (3, 1, 3)]
    assert rig.store.changelog_offset() == 3


async def test_units_whose_outputs_are_acknowledged_share_one_changelog_batch(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer(events(0, 3))
    await settle()
    for sent in reversed(rig.delivery.outputs):  # the oldest last: then all three are ready at once
        sent.ack()
    await settle()
    (batch,) = rig.delivery.states
    assert [record.key for record in batch.records] == [COUNTS.raw_key("u"), MARKER_KEY]
    assert decode_marker(batch.records[-1].value).next_offsets == {SOURCE: 3}
    batch.ack()
    await settle()
    assert (rig.durable, rig.count()) == (3, 3)
    assert [unit.records for unit in rig.observer.units] == [1, 1, 1]
    assert sum(unit.changelog_records for unit in rig.observer.units) == 2


async def test_a_shared_changelog_batch_ends_where_the_next_unit_would_not_fit(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1, batch_bytes=5_000)
    rig.lane.offer([event(offset, f"{offset:0>900}") for offset in range(3)])
    await settle()
    for sent in reversed(rig.delivery.outputs):
        sent.ack()
    await rig.acknowledge_all()
    assert [len(batch.records) for batch in rig.delivery.states] == [2, 2, 2]
    assert rig.durable == 3


async def test_a_failed_output_of_a_later_unit_ends_the_process_and_is_not_settled(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer(events(0, 2))
    await settle()
    rig.delivery.outputs[1].fail(RuntimeError("broker said no"))
    rig.delivery.outputs[0].ack()
    await settle()
    assert len(rig.fatal.reasons) == 1
    assert rig.durable == -1


async def test_a_unit_without_state_or_output_still_moves_the_position(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer(events(0, 3, value=b"dup"))
    await rig.acknowledge_all()
    assert rig.delivery.outputs == []
    assert rig.durable == 3


# -- the durable prefix -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
async def test_what_is_durable_is_the_longest_prefix_whatever_the_order_of_acknowledgements(
    start_lane: Start, order: tuple[int, ...]
) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer(events(0, 3))
    await settle()
    acknowledged: set[int] = set()
    for unit in order:
        rig.delivery.outputs[unit].ack()
        acknowledged.add(unit)
        await settle()
        while waiting := [sent for sent in rig.delivery.states if not sent.answer.done()]:
            assert len(waiting) == 1, "changelog batches of a lane must not overtake each other"
            waiting[0].ack()
            await settle()
        prefix = next(n for n in range(4) if n not in acknowledged)
        assert rig.durable == (prefix or -1)
        assert rig.count() == prefix


async def test_a_later_unit_computes_on_the_state_of_one_that_is_still_in_flight(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer(events(0, 3))
    await settle()
    assert [sent.records[0].value for sent in rig.delivery.outputs] == [b"1", b"2", b"3"]
    assert rig.count() == 0


async def test_gaps_in_the_offsets_commit_as_the_last_offset_plus_one(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer([event(3), event(7), event(100)])
    await rig.acknowledge_all()
    assert (rig.durable, rig.count()) == (101, 3)


async def test_records_that_are_applied_already_are_skipped(start_lane: Start, store: PartitionStore) -> None:
    rig = start_lane()
    rig.lane.offer(events(0, 5))
    await rig.acknowledge_all()
    await rig.stop()
    again = start_lane(delivery=rig.delivery)
    again.lane.offer(events(0, 5))
    again.lane.offer(events(3, 8))
    again.lane.offer(events(6, 8))
    await again.acknowledge_all()
    assert (again.count(), again.durable) == (8, 8)
    assert again.lane.progress.durable_marker.consumed == 8


async def test_two_topics_of_a_lane_never_share_a_unit_and_keep_their_own_positions(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer(events(0, 2))
    rig.lane.offer([event(40, topic="retry"), event(41, topic="retry")])
    rig.lane.offer(events(2, 3))
    await rig.acknowledge_all()
    assert [(unit.topic, unit.records) for unit in rig.observer.units] == [(SOURCE, 2), ("retry", 2), (SOURCE, 1)]
    assert rig.store.marker().next_offsets == {SOURCE: 3, "retry": 42}


# -- bounds -------------------------------------------------------------------------------------------


async def test_at_most_unit_depth_units_are_in_flight(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1, unit_depth=2)
    rig.lane.offer(events(0, 5))
    await settle()
    assert (rig.lane.units_in_flight, len(rig.delivery.outputs)) == (2, 2)
    rig.delivery.outputs[0].ack()
    await settle()
    assert rig.lane.units_in_flight == 2, "not durable yet"
    rig.delivery.states[0].ack()
    await settle()
    assert (rig.lane.units_in_flight, len(rig.delivery.outputs)) == (2, 3)


async def test_units_split_by_size_respect_the_depth_too(start_lane: Start) -> None:
    rig = start_lane(unit_depth=1, batch_bytes=4_000)
    rig.lane.offer([event(offset, f"{offset:0>500}") for offset in range(12)])
    await settle()
    assert rig.lane.units_in_flight == 1


async def test_what_arrives_while_the_lane_is_full_becomes_one_unit(start_lane: Start) -> None:
    rig = start_lane(unit_depth=1)
    for offset in range(6):
        rig.lane.offer([event(offset)])
        await settle()
    await rig.acknowledge_all()
    assert [unit.records for unit in rig.observer.units] == [1, 5]


async def test_a_unit_has_at_most_so_many_records(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=4)
    rig.lane.offer(events(0, 3))
    rig.lane.offer(events(3, 10))
    await rig.acknowledge_all()
    assert [unit.records for unit in rig.observer.units] == [4, 4, 2]


async def test_a_unit_has_at_most_so_many_bytes_however_they_were_fetched(start_lane: Start) -> None:
    rig = start_lane(unit_max_bytes=8)
    rig.lane.offer(events(0, 3))  # 4 bytes each
    rig.lane.offer(events(3, 4))
    rig.lane.offer(events(4, 5))
    await rig.acknowledge_all()
    assert [unit.source_bytes for unit in rig.observer.units] == [8, 8, 4]


async def test_a_report_says_when_its_records_reached_each_stage_and_what_was_published(start_lane: Start) -> None:
    rig = start_lane(unit_depth=1, unit_max_records=2)
    rig.lane.offer(events(0, 4))
    await settle()
    await asyncio.sleep(0.05)  # the second unit waits for the first one's acknowledgement
    await rig.acknowledge_all()

    first, second = rig.observer.units
    for report in (first, second):
        assert list(report.reached) == [stage for stage in get_args(Stage) if stage not in AGENT_STAGES.values()]
        assert sorted(report.reached.values()) == list(report.reached.values()), "in the order in which a record meets them"
    assert first.reached["visible"] - first.reached["computed"] >= 45
    assert second.reached["computed"] - second.reached["fetched"] >= 45, "the wait in the queue counts"
    assert first.outputs == second.outputs == {OUT: 2}


async def test_a_body_that_tells_of_its_steps_adds_their_stages(start_lane: Start) -> None:
    async def stepping(batch: Batch[Any]) -> Effects:
        at = time.perf_counter()
        await asyncio.sleep(0.03)
        effects = await count(batch)
        at = effects.step("decode", at)
        await asyncio.sleep(0.03)
        effects.step("state", effects.step("enrich", at))
        return effects

    rig = start_lane(body=stepping)
    rig.lane.offer(events(0, 3))
    while not rig.delivery.outputs:  # noqa: ASYNC110 - a fake gets them
        await asyncio.sleep(0.01)
    await rig.acknowledge_all()

    (report,) = rig.observer.units
    assert list(report.reached) == list(get_args(Stage))
    assert sorted(report.reached.values()) == list(report.reached.values())
    assert report.reached["decoded"] - report.reached["taken"] >= 25
    assert report.reached["enriched"] - report.reached["decoded"] >= 25
    assert list(report.steps) == ["decode", "enrich", "state"]


async def test_a_record_larger_than_a_unit_gets_one_of_its_own(start_lane: Start) -> None:
    rig = start_lane(unit_max_bytes=3)
    rig.lane.offer(events(0, 2))
    await rig.acknowledge_all()
    assert [unit.records for unit in rig.observer.units] == [1, 1]


async def test_fetching_pauses_above_high_water_and_resumes_at_low_water(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1, unit_depth=1, high_water=4, low_water=2)
    rig.lane.offer(events(0, 4))
    assert (rig.pauses, rig.lane.paused) == ([], False)
    rig.lane.offer(events(4, 6))
    rig.lane.offer(events(6, 7))
    assert (rig.pauses, rig.lane.paused) == ([True], True)
    resumed_at = None
    while rig.lane.queued:
        await settle()
        if rig.pauses[-1] is False and resumed_at is None:
            resumed_at = rig.lane.queued
        for sent in rig.delivery.unanswered():
            sent.ack()
    assert (rig.pauses, rig.lane.paused, resumed_at) == ([True, False], False, 2)


async def test_a_slow_lane_does_not_delay_another(start_lane: Start, tmp_path: Path) -> None:
    other = open_store(tmp_path / "other")
    slow, fast = start_lane(unit_max_records=1), start_lane(store_=other, lane=LaneId("count", 1))
    slow.lane.offer(events(0, 50))
    fast.lane.offer(events(0, 50))
    await fast.acknowledge_all()
    assert (slow.durable, fast.durable) == (-1, 50)
    await fast.stop()
    other.close()


async def test_dead_letters_that_no_broker_has_acknowledged_say_for_how_long_they_wait(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle()
    assert [sent.topic for sent in rig.delivery.outputs] == [OUT, DLQ]
    await asyncio.sleep(0.02)
    assert rig.lane.dead_letters_wait_s >= 0.02
    rig.delivery.outputs[1].ack()
    await settle()
    assert rig.lane.dead_letters_wait_s == 0.0, "the output before it waits, no dead letter does"
    assert rig.durable == -1


# -- failure ------------------------------------------------------------------------------------------


async def test_a_failed_output_ends_the_process_and_moves_nothing(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1)
    rig.lane.offer(events(0, 2))
    await settle()
    rig.delivery.outputs[1].ack()
    rig.delivery.outputs[0].fail(RuntimeError("broker said no"))
    await settle()
    assert len(rig.fatal.reasons) == 1
    assert f"{OUT} does not take our records" in rig.fatal.reasons[0]
    assert "broker said no" in rig.fatal.reasons[0]
    assert (rig.durable, rig.count(), rig.delivery.states) == (-1, 0, [])


async def test_a_failed_changelog_batch_ends_the_process_and_moves_nothing(start_lane: Start) -> None:
    rig = start_lane()
    rig.lane.offer(events(0, 2))
    await settle()
    rig.delivery.outputs[0].ack()
    await settle()
    rig.delivery.states[0].fail(RuntimeError("broker said no"))
    await settle()
    assert "broker said no" in rig.fatal.reasons[0]
    assert (rig.durable, rig.count(), rig.store.changelog_offset(), rig.listener.units) == (-1, 0, -1, [])


# -- close --------------------------------------------------------------------------------------------


async def test_close_drops_what_is_queued_and_finishes_what_is_in_flight(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1, unit_depth=2)
    rig.lane.offer(events(0, 5))
    await settle()
    closing = asyncio.create_task(rig.lane.close())
    await settle()
    assert not closing.done()
    await rig.acknowledge_all()
    await closing
    assert (rig.durable, rig.count(), len(rig.delivery.outputs), rig.lane.queued) == (2, 2, 2, 0)
    assert (rig.listener.stopped, rig.fatal.reasons) == ([rig.lane.id], [])


async def test_an_idle_lane_closes_at_once_and_takes_nothing_after_that(start_lane: Start) -> None:
    rig = start_lane()
    await settle()
    await asyncio.wait_for(rig.lane.close(), 1)
    rig.lane.offer(events(0, 5))
    await settle()
    assert (rig.lane.queued, rig.delivery.outputs) == (0, [])


async def test_close_ends_the_process_when_a_unit_does_not_finish_in_time(start_lane: Start) -> None:
    rig = start_lane(drain_timeout_s=0.02)
    rig.lane.offer(events(0, 5))
    await settle()
    await asyncio.wait_for(rig.lane.close(), 1)
    assert len(rig.fatal.reasons) == 1
    assert "1 units did not finish" in rig.fatal.reasons[0]
    assert rig.durable == -1


async def test_the_listener_hears_of_the_last_unit_before_it_hears_of_the_stop(start_lane: Start) -> None:
    class Ordered(FakeListener):
        async def lane_stopped(self, lane: LaneId) -> None:
            assert len(self.units) == 1
            await super().lane_stopped(lane)

    rig = start_lane()
    rig.lane._parts = _with(rig.lane._parts, listener=Ordered())
    rig.lane.offer(events(0, 1))
    await settle()
    closing = asyncio.create_task(rig.lane.close())
    await rig.acknowledge_all()
    await closing


def _with(parts: Any, **changes: Any) -> Any:
    return type(parts)(**{name: changes.get(name, getattr(parts, name)) for name in parts.__slots__})


# -- memory -------------------------------------------------------------------------------------------


async def test_state_of_a_unit_that_waits_to_be_published_is_never_evicted(start_lane: Start) -> None:
    rig = start_lane(unit_max_records=1, hot=0)
    rig.lane.offer([event(0, "other")])
    await settle()
    rig.delivery.open.clear()  # the broker has not taken this partition's previous batch yet
    rig.lane.offer([event(1), event(2)])
    await rig.acknowledge_all()  # the first unit becomes durable meanwhile
    assert rig.durable == 1
    rig.delivery.open.set()
    await rig.acknowledge_all()
    assert (rig.durable, rig.count()) == (3, 2)


async def test_state_of_a_run_is_never_evicted_while_a_later_run_of_the_same_batch_waits(start_lane: Start) -> None:
    gate = asyncio.Event()

    async def waits_for_the_second_half(batch: Batch[Any]) -> Effects:
        if [record.offset for record in batch.records] == [2]:
            await gate.wait()
        return await count(batch)

    rig = start_lane(body=waits_for_the_second_half, unit_max_records=3, hot=0)
    rig.lane.offer([event(0, "other")])
    await settle()
    rig.lane.offer([event(1), event(2), event(3, "x", b"boom")])
    await rig.acknowledge_all()  # the first unit becomes durable while the body waits
    assert rig.durable == 1
    gate.set()
    await rig.acknowledge_all()
    assert (rig.durable, rig.count()) == (4, 2)


async def test_values_over_the_limit_are_forgotten_and_read_again(start_lane: Start) -> None:
    rig = start_lane(hot=2, unit_max_records=1)
    for offset in range(12):
        rig.lane.offer([event(offset, f"k{offset % 4}")])
        await rig.acknowledge_all()
    assert [rig.count(f"k{n}") for n in range(4)] == [3, 3, 3, 3]
    assert len(rig.lane.state.hot) == 2


async def test_an_agent_that_waits_keeps_its_lane_exact(start_lane: Start) -> None:
    async def slow(batch: Batch[Any]) -> Effects:
        await asyncio.sleep(0)
        effects = await count(batch)
        await asyncio.sleep(0)
        return effects

    rig = start_lane(body=slow, delivery=FakeDelivery(acknowledge=True), unit_max_records=2)
    rig.lane.offer(events(0, 9))
    await settle(100)
    assert (rig.count(), rig.durable) == (9, 9)
    assert decode_marker(rig.store.get(MARKER_KEY)).ledger().residue == 0

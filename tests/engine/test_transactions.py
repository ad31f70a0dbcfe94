"""Exactly once: the order inside a transaction, lanes of a group, pace, repairs, taking over and giving up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, ProducerFenced

from app.engine import transactions
from app.engine.marker import MARKER_KEY, decode_marker
from tests.engine.support import CHANGELOG, COUNTS, DLQ, OUT, SOURCE, event, events, settle
from tests.engine.transactions_support import MakeWorld, World, in_need_of_repair, worlds


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "BACK_OFF_S", 0.0)


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeWorld]:
    """Worlds; arguments: groups, interval_s, kafka."""
    async with worlds(tmp_path) as new:
        yield new


@pytest.fixture
def world(make: MakeWorld) -> World:
    """Four groups, no pacing."""
    return make()


# -- the order inside a transaction -------------------------------------------------------------------


async def test_every_send_is_acknowledged_before_the_offsets_are_sent(world: World) -> None:
    world.kafka.held = []
    rig = await world.one_lane()
    rig.lane.offer([event(0), event(1, value=b"dead")])
    await settle()
    assert len(world.kafka.held) == 3  # output, dead letter, changelog
    while world.kafka.held:
        assert not {"offsets", "commit"} & set(world.kafka.steps())
        world.kafka.held.pop()()
        await settle()
    assert world.kafka.steps()[-2:] == ["offsets", "commit"]


async def test_nothing_is_applied_nor_announced_before_the_commit(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    rig = await world.one_lane()
    rig.lane.offer(events(0, 3))
    await settle()
    assert world.kafka.steps()[-1] == "commit"
    assert (rig.store.get(COUNTS.raw_key("u")), rig.store.changelog_offset(), rig.durable) == (None, -1, -1)
    assert (rig.listener.units, rig.observer.units, rig.lane.progress.committed) == ([], [], {SOURCE: -1})
    world.kafka.gate.set()
    await settle()
    assert (rig.count(), rig.store.changelog_offset(), rig.durable) == (3, 1, 3)
    assert (rig.listener.units, len(rig.observer.units), rig.lane.progress.committed) == ([(1, -1, 2)], 1, {SOURCE: 3})


async def test_outputs_are_produced_within_the_transaction_and_visible_once_it_is_committed(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    rig = await world.one_lane()
    rig.lane.offer(events(0, 3))
    await settle()
    await asyncio.sleep(0.05)
    world.kafka.gate.set()
    await settle()
    (report,) = rig.observer.units
    assert report.reached["computed"] <= report.reached["produced"]
    assert report.reached["visible"] - report.reached["produced"] >= 45


async def test_outputs_dead_letters_changelog_and_offsets_are_one_transaction(world: World) -> None:
    rig = await world.one_lane()
    rig.lane.offer([event(0), event(1, value=b"dead"), event(2)])
    await settle()
    (one,) = world.kafka.transactions
    assert [tp.topic for tp, _, _ in one.sends] == [OUT, DLQ, CHANGELOG]
    assert one.offsets == {TopicPartition(SOURCE, 0): 3}
    (letter,) = one.sends[1][2]
    assert letter.headers == (("reason", b"bad"),)
    assert decode_marker(one.sends[2][2][-1].value).next_offsets == {SOURCE: 3}


async def test_every_batch_says_that_it_is_part_of_a_transaction(world: World) -> None:
    """aiokafka sends others as they are: visible whatever becomes of the transaction."""
    rig = await world.one_lane(batch_bytes=500)
    rig.lane.offer([event(0, value=b"dead"), *events(1, 60)])
    await settle(60)
    assert (len(world.kafka.flags) > 5, set(world.kafka.flags)) == (True, {True})


async def test_stamps_are_changelog_offsets_over_markers_and_aborted_records(world: World) -> None:
    rig = await world.one_lane()
    world.kafka.fail["commit"].extend([None, ProducerFenced()])
    for offset in range(3):
        rig.lane.offer([event(offset)])
        await settle()
    log = world.kafka.visible[TopicPartition(CHANGELOG, 0)]
    assert [stamp for stamp, _, _ in rig.listener.units] == [offset for offset, record in log if record.key == MARKER_KEY]
    assert [previous for _, previous, _ in rig.listener.units] == [-1, 1, 7]
    assert rig.store.changelog_offset() == len(world.kafka.logs[TopicPartition(CHANGELOG, 0)]) - 2


async def test_a_turn_without_work_is_no_transaction(world: World) -> None:
    await world.one_lane()
    await world.exactly_once._groups[0].transact()
    assert "begin" not in world.kafka.steps()


# -- lanes of a group ---------------------------------------------------------------------------------


async def test_lanes_of_a_group_share_a_transaction_and_other_groups_have_theirs(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    await world.exactly_once.acquire(range(6))
    rigs = [await world.lane(partition) for partition in (0, 4, 1)]
    for rig in rigs:
        rig.lane.offer([event(0)])
    await settle()
    assert [call for call in world.kafka.calls if call[0] == "begin"] == [("begin", "app-0"), ("begin", "app-1")]
    world.kafka.gate.set()
    await settle()
    assert sorted(sorted(tp.partition for tp in one.offsets) for one in world.kafka.transactions) == [[0, 4], [1]]
    assert [rig.count() for rig in rigs] == [1, 1, 1]


async def test_at_most_one_transaction_of_a_group_is_under_way(world: World) -> None:
    world.kafka.gate = asyncio.Event()
    await world.exactly_once.acquire([0, 4])
    first, second = await world.lane(0), await world.lane(4)
    first.lane.offer([event(0)])
    await settle()
    first.lane.offer([event(1)])
    second.lane.offer([event(0)])
    await settle()
    assert world.kafka.steps().count("begin") == 1
    world.kafka.gate.set()
    await settle()
    assert [sorted(one.offsets.values()) for one in world.kafka.transactions] == [[1], [1, 2]]


async def test_units_of_one_lane_are_committed_in_order_and_once_while_each_transaction_fails_once(world: World) -> None:
    rig = await world.one_lane(unit_max_records=2)
    world.kafka.fail["ack"].extend([KafkaTimeoutError(), None, None, None] * 20)
    for offset in range(0, 30, 3):
        rig.lane.offer(events(offset, offset + 3))
        await settle(5)
    await settle(400)
    assert (rig.count(), rig.durable, rig.fatal.reasons) == (30, 30, [])
    assert world.kafka.values(OUT) == [b"%d" % n for n in range(1, 31)]


# -- pace ---------------------------------------------------------------------------------------------


async def test_transactions_begin_an_interval_apart(make: MakeWorld) -> None:
    world = make(interval_s=0.15)
    rig = await world.one_lane()
    for offset in range(3):
        rig.lane.offer([event(offset)])
        while len(world.kafka.transactions) == offset:  # noqa: ASYNC110 - a fake changes it
            await asyncio.sleep(0.001)
    # Half of it: the host may take its time between the group's look at the clock and the fake's.
    assert all(later - earlier > 0.075 for earlier, later in itertools.pairwise(world.kafka.began))


async def test_a_closing_lane_does_not_wait_for_the_interval(make: MakeWorld) -> None:
    world = make(interval_s=30.0)
    rig = await world.one_lane(drain_timeout_s=2.0)
    rig.lane.offer([event(0)])
    await settle()
    assert len(world.kafka.transactions) == 1
    rig.lane.offer([event(1)])
    await settle()
    assert rig.lane.units_in_flight == 1
    await rig.lane.close()
    assert (rig.fatal.reasons, rig.count()) == ([], 2)


async def test_what_a_closing_lane_publishes_is_not_paced(make: MakeWorld) -> None:
    world = make(interval_s=30.0)
    await world.exactly_once.acquire([0, 4])
    closing, other = await world.lane(0), await world.lane(4)
    other.lane.closing = True
    for offset in range(3):
        closing.lane.offer([event(offset)])
        await settle()
    assert len(world.kafka.transactions) == 3


async def test_closing_lanes_drain(world: World) -> None:
    await world.exactly_once.acquire([0, 4])
    rigs = [await world.lane(partition, unit_max_records=1) for partition in (0, 4)]
    world.kafka.gate = asyncio.Event()
    for rig in rigs:
        rig.lane.offer(events(0, 3))
    await settle()
    closing = [asyncio.ensure_future(rig.lane.close()) for rig in rigs]
    await settle()
    assert not any(task.done() for task in closing)
    world.kafka.gate.set()
    await asyncio.gather(*closing)
    assert [(rig.count(), rig.lane.units_in_flight, rig.fatal.reasons) for rig in rigs] == [(3, 0, [])] * 2
    assert world.kafka.group == {TopicPartition(SOURCE, 0): 3, TopicPartition(SOURCE, 4): 3}
    assert world.exactly_once._groups[0].lanes == []


# -- repairs ------------------------------------------------------------------------------------------


async def test_a_mere_repair_moves_no_offsets(world: World) -> None:
    await world.exactly_once.acquire([0])
    rig = await world.lane(store=in_need_of_repair(world))
    await settle()
    assert "offsets" not in world.kafka.steps()
    (one,) = world.kafka.transactions
    assert (one.offsets, [tp.topic for tp, _, _ in one.sends]) == ({}, [CHANGELOG])
    assert (rig.store.keys_to_repair(), world.kafka.values(CHANGELOG)[0], rig.fatal.reasons) == ([], b"7", [])


async def test_a_repair_whose_commit_is_unknown_is_repeated(world: World) -> None:
    await world.exactly_once.acquire([0])
    world.kafka.fail["committed"].append(KafkaConnectionError())
    rig = await world.lane(store=in_need_of_repair(world))
    await settle(60)
    assert len(world.kafka.transactions) == 2  # the same values twice change nothing
    assert (rig.store.keys_to_repair(), rig.count()) == ([], 7)


# -- taking over and giving up ------------------------------------------------------------------------


async def test_acquire_starts_exactly_the_groups_of_the_partitions(world: World) -> None:
    await world.exactly_once.acquire([1, 5, 9, 3])
    assert sorted(world.kafka.calls) == [("new", "app-1"), ("new", "app-3"), ("start", "app-1"), ("start", "app-3")]


async def test_acquire_stops_what_was_held_before_it_starts(world: World) -> None:
    await world.exactly_once.acquire([0, 1])
    world.kafka.calls.clear()
    await world.exactly_once.acquire([1])
    assert world.kafka.calls[:2] == [("stop", "app-0"), ("stop", "app-1")]
    assert world.kafka.calls[2:] == [("new", "app-1"), ("start", "app-1")]


async def test_release_stops_every_producer_once(world: World) -> None:
    await world.exactly_once.acquire(range(8))
    world.kafka.calls.clear()
    await world.exactly_once.release()
    await world.exactly_once.release()
    assert sorted(world.kafka.calls) == [("stop", f"app-{group}") for group in range(4)]


async def test_no_partition_starts_no_producer(world: World) -> None:
    await world.exactly_once.acquire([])
    assert world.kafka.calls == []


async def test_an_id_that_cannot_be_taken_over_is_an_error(world: World) -> None:
    world.kafka.fail["start"].append(KafkaConnectionError())
    with pytest.raises(KafkaConnectionError):
        await world.exactly_once.acquire([0])


async def test_a_lane_of_a_group_that_is_not_held_cannot_settle(world: World) -> None:
    await world.exactly_once.acquire([0])
    rig = await world.lane(1)
    assert "cannot go on: KeyError" in rig.fatal.reasons[0]


async def test_a_successor_ends_what_its_predecessor_left_open_and_fences_it(world: World, make: MakeWorld) -> None:
    first = await world.one_lane()
    first.lane.offer(events(0, 3))
    await settle()
    sends: list[Callable[[], None]] = []
    world.kafka.held = sends
    first.lane.offer(events(3, 5))
    await settle()
    world.kafka.held = None
    await make(kafka=world.kafka).exactly_once.acquire([0])
    assert (world.kafka.group, world.kafka.opened) == ({TopicPartition(SOURCE, 0): 3}, {})
    world.kafka.members.extend([False] * 9)
    for acknowledge in sends:
        acknowledge()
    await settle(60)
    assert "belongs to another worker" in first.fatal.reasons[0]
    assert (first.durable, world.kafka.group, world.kafka.values(OUT)) == (3, {TopicPartition(SOURCE, 0): 3}, [b"1", b"2", b"3"])

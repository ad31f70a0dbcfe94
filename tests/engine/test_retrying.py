"""Failures that pass: a record that cannot be processed now goes to a tier, holds nobody up, and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.engine.api import Batch, Effects
from app.engine.compute import _PASSING_RUNS, Computed, Computer
from app.engine.engine import Engine, EngineParts, SourcePosition
from app.engine.state import LaneState
from app.engine.store import PartitionStore
from app.engine.tiers import Tier, Tiers
from tests.engine.support import (
    COUNTS,
    LANE,
    OUT,
    SOURCE,
    EngineRig,
    FakeRetries,
    Rig,
    count,
    event,
    events,
    new_rig,
    settle,
)  # fmt: skip

TIER, LAST_TIER = FakeRetries.topics


def computer(store: PartitionStore, retries: FakeRetries | None, body: Any = count) -> Computer:
    return Computer(LANE, body, None, LaneState(store, 1000), 100_000, retries=retries)


def retried(unit: Computed) -> list[tuple[int, str]]:
    """Offset and tier of every record that is to be tried again."""
    return [(record.offset, retry.topic) for record, _, retry in unit.retries]


# -- computing ----------------------------------------------------------------------------------------


async def test_a_record_that_is_to_be_tried_again_changes_no_state_and_has_one_outcome(store: PartitionStore) -> None:
    (unit,) = await computer(store, FakeRetries()).run([event(0), event(1, value=b"later"), event(2)])
    assert (retried(unit), unit.emitted, unit.dead_letters) == ([(1, TIER)], 2, [])
    assert unit.writes == {COUNTS.raw_key("u"): b"2"}


async def test_one_that_was_tried_often_enough_is_a_dead_letter_that_says_so(store: PartitionStore) -> None:
    (unit,) = await computer(store, FakeRetries()).run([event(5, value=b"later", topic=LAST_TIER)])
    ((_, failure),) = unit.dead_letters
    assert (failure.reason, failure.disposition, retried(unit)) == ("unavailable", "retries_exhausted", [])


async def test_without_tiers_it_is_a_dead_letter_at_once(store: PartitionStore) -> None:
    (unit,) = await computer(store, None).run([event(0, value=b"later")])
    ((_, failure),) = unit.dead_letters
    assert failure.disposition == "transient_timeout"


@pytest.mark.parametrize("position", [0, 500, 999])
async def test_a_record_that_times_out_goes_alone_to_its_tier(store: PartitionStore, position: int) -> None:
    records = events(0, 1000)
    records[position].value = b"slow"
    (unit,) = await computer(store, FakeRetries()).run(records)
    assert (retried(unit), unit.emitted) == ([(position, TIER)], 999)


async def test_when_nothing_answers_the_batch_waits_whole_after_a_few_runs(store: PartitionStore) -> None:
    runs = 0

    async def slow(batch: Batch[Any]) -> Effects:
        nonlocal runs
        runs += 1
        raise ConnectionError

    units = await computer(store, FakeRetries(), slow).run(events(0, 1000))
    assert [offset for unit in units for offset, _ in retried(unit)] == list(range(1000))
    # It is never asked for each record: some bisecting, then what is left of it, piece by piece.
    assert runs <= 2 * _PASSING_RUNS

    await computer(store, FakeRetries(), slow).run(events(0, 1))
    assert runs <= 2 * _PASSING_RUNS + 1


async def test_poison_among_what_times_out_is_still_a_dead_letter(store: PartitionStore) -> None:
    (unit,) = await computer(store, FakeRetries()).run([event(0), event(1, value=b"slow"), event(2, value=b"boom")])
    assert (retried(unit), [record.offset for record, _ in unit.dead_letters], unit.emitted) == ([(1, TIER)], [2], 1)


# -- the lane -----------------------------------------------------------------------------------------


class Gate:
    """What a lane does to a tier's partition."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.paused = False

    def set_paused(self, paused: bool) -> None:
        self.paused = paused


@pytest.fixture
async def waiting(store: PartitionStore) -> AsyncIterator[tuple[Rig, Gate]]:
    """A running lane with one tier, whose clock the test moves."""
    gate, retries = Gate(), FakeRetries()
    tier = Tier(TIER, retries, gate.set_paused, lambda since_ms: True, now_ms=lambda: gate.now_ms)
    rig = new_rig(store, retries=retries, tiers=Tiers([tier]))
    rig.lane.start()
    yield rig, gate
    await rig.stop()


async def test_what_is_not_due_holds_nobody_up(waiting: tuple[Rig, Gate]) -> None:
    rig, gate = waiting
    rig.lane.offer([event(90_000, topic=TIER)])
    rig.lane.offer(events(0, 3))
    await rig.acknowledge_all()

    assert (rig.durable, rig.lane.queued, rig.lane.tiers.held(TIER), gate.paused) == (3, 0, 1, True)
    assert rig.store.marker().next_offsets == {SOURCE: 3}, "it is not applied"
    await rig.lane.close()
    assert rig.store.marker().next_offsets == {SOURCE: 3}, "and read again by whoever comes next"


async def test_what_is_due_is_processed_like_any_other_record(waiting: tuple[Rig, Gate]) -> None:
    rig, gate = waiting
    rig.lane.offer([event(30, topic=TIER), event(90_000, topic=TIER)])
    await rig.acknowledge_all()
    assert rig.observer.units == []

    gate.now_ms = 40
    await asyncio.sleep(0.05)  # its alarm rings by itself
    await rig.acknowledge_all()

    assert rig.store.marker().next_offsets == {TIER: 31}
    assert (rig.count(), rig.lane.tiers.held(TIER)) == (1, 1)


async def test_a_failed_record_is_in_its_tier_before_its_source_offset_is_durable(waiting: tuple[Rig, Gate]) -> None:
    rig, _ = waiting
    rig.lane.offer([event(0), event(1, value=b"later")])
    await settle()
    assert [(sent.topic, len(sent.records)) for sent in rig.delivery.outputs] == [(OUT, 1), (TIER, 1)]
    assert rig.durable == -1

    await rig.acknowledge_all()
    ledger = rig.store.marker().ledger()
    assert (rig.durable, ledger.emitted, ledger.retried, ledger.residue) == (2, 1, 1, 0)
    assert rig.observer.units[0].retries == [("enrich", "unavailable")]


async def test_records_to_be_tried_again_do_not_open_the_breaker(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path, breaker_min_events=10)
    engine = with_retries(rig)
    engine.open_lanes({(SOURCE, 0): SourcePosition(0, 0, -1)}, {})
    engine.submit(SOURCE, 0, events(0, 100, value=b"later"))
    await rig.acknowledge_all()
    assert engine.breakers.status(LANE).state == "closed"
    await rig.shut()


# -- the engine ---------------------------------------------------------------------------------------


def with_retries(rig: EngineRig) -> Engine:
    """The rig's engine, with tiers for its source."""
    parts = replace(rig.engine._parts, retries={SOURCE: FakeRetries()})
    assert isinstance(parts, EngineParts)
    rig.engine = Engine(parts)
    return rig.engine


async def test_one_lane_reads_the_source_and_its_tiers(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path)
    engine, at = with_retries(rig), SourcePosition(0, 9, -1)
    starts = engine.open_lanes({(SOURCE, 0): at, (TIER, 0): at, (LAST_TIER, 0): SourcePosition(4, 9, 4)}, {})

    assert starts == {(SOURCE, 0): 0, (TIER, 0): 0, (LAST_TIER, 0): 4}
    assert list(engine.lanes) == [LANE]
    engine.submit(SOURCE, 0, events(0, 2))
    engine.submit(TIER, 0, [event(0, topic=TIER)])
    await asyncio.sleep(0)
    await rig.acknowledge_all()
    assert engine.committable() == {(SOURCE, 0): 2, (TIER, 0): 1}
    await rig.shut()


async def test_positions_of_tiers_survive_a_restart(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path)
    engine, at = with_retries(rig), SourcePosition(0, 9, -1)
    engine.open_lanes({(SOURCE, 0): at, (TIER, 0): at}, {})
    engine.submit(TIER, 0, [event(0, topic=TIER)])
    await asyncio.sleep(0)
    await rig.acknowledge_all()
    await engine.close_lanes()

    assert engine.open_lanes({(SOURCE, 0): at, (TIER, 0): at}, {}) == {(SOURCE, 0): 0, (TIER, 0): 1}
    await rig.shut()

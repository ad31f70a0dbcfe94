"""One guilty record costs one dead letter: its neighbours are processed, its half-made state is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain.damage import DamagedState
from app.engine.api import Batch, Body, Effects, Failure, Output, Record
from app.engine.compute import Computed, Computer
from app.engine.state import LaneState
from app.engine.store import PartitionStore
from tests.engine.support import COUNTS, LANE, OUT, count, event, events, offsets
from tests.fakes import FakeRecord


def computer(store: PartitionStore, body: Body = count, limit: int = 100_000, context: Any = None) -> tuple[Computer, LaneState]:
    """A computer over an empty memory."""
    state = LaneState(store, 1000)
    return Computer(LANE, body, context, state, limit), state


def dead(units: Sequence[Computed]) -> list[tuple[int, Failure]]:
    """Offset and failure of every dead letter."""
    return [(record.offset, failure) for unit in units for record, failure in unit.dead_letters]


# -- poison -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 3, 7, 9])
async def test_one_poison_record_is_one_dead_letter_and_the_others_are_processed(store: PartitionStore, position: int) -> None:
    records = events(0, 10)
    records[position].value = b"boom"
    compute, state = computer(store)
    (unit,) = await compute.run(records)
    assert [offset for offset, _ in dead([unit])] == [position]
    assert (unit.emitted, offsets(unit.records)) == (9, list(range(10)))
    assert unit.writes == {COUNTS.raw_key("u"): b"9"}
    assert [output.value for _, output in unit.outputs] == [b"%d" % n for n in range(1, 10)]
    assert state.hot == {COUNTS.raw_key("u"): 9}


async def test_when_every_record_is_poison_every_record_is_a_dead_letter(store: PartitionStore) -> None:
    compute, state = computer(store)
    (unit,) = await compute.run(events(0, 7, value=b"boom"))
    assert [offset for offset, _ in dead([unit])] == list(range(7))
    assert (unit.writes, unit.outputs, state.hot) == ({}, [], {})


@given(poison=st.sets(st.integers(0, 19)))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_set_of_poison_records_costs_exactly_those(store: PartitionStore, poison: set[int]) -> None:
    records = [event(offset, f"k{offset % 3}", b"boom" if offset in poison else b"emit") for offset in range(20)]
    compute, _ = computer(store)
    units = asyncio.run(compute.run(records))
    assert {offset for offset, _ in dead(units)} == poison
    assert [offset for unit in units for offset in offsets(unit.records)] == list(range(20)), "offset order is kept"
    written = {key: value for unit in units for key, value in unit.writes.items()}
    expected = {f"k{n}": sum(1 for offset in range(20) if offset % 3 == n and offset not in poison) for n in range(3)}
    assert written == {COUNTS.raw_key(key): b"%d" % n for key, n in expected.items() if n}


async def test_a_poison_record_is_found_in_a_logarithmic_number_of_runs(store: PartitionStore) -> None:
    runs = 0

    async def counting(batch: Batch[Any]) -> Effects:
        nonlocal runs
        runs += 1
        return await count(batch)

    records = events(0, 64)
    records[41].value = b"boom"
    compute, _ = computer(store, counting)
    await compute.run(records)
    assert runs == 1 + 2 * 6


async def test_the_message_of_a_dead_letter_names_the_exception_but_never_quotes_it(store: PartitionStore) -> None:
    async def leaky(batch: Batch[Any]) -> Effects:
        raise ValueError(f"cannot parse {batch.records[0].value!r}")

    compute, _ = computer(store, leaky)
    units = await compute.run([event(0, value=b"secret card number")])
    ((_, failure),) = dead(units)
    assert (failure.stage, failure.reason, failure.disposition) == ("aggregate", "agent_error", "invalid")
    assert failure.message == "ValueError in agent count"
    assert isinstance(failure.exception, ValueError)


async def test_damaged_state_is_nobodys_dead_letter(store: PartitionStore) -> None:
    async def finds_damage(batch: Batch[Any]) -> Effects:
        raise DamagedState("a chunk is missing")

    compute, _ = computer(store, finds_damage)
    with pytest.raises(DamagedState):
        await compute.run(events(0, 4))


async def test_a_cancelled_body_is_not_a_dead_letter(store: PartitionStore) -> None:
    async def waits(batch: Batch[Any]) -> Effects:
        await asyncio.Event().wait()
        return batch.effects()

    compute, state = computer(store, waits)
    task = asyncio.create_task(compute.run(events(0, 4)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert state.hot == {}


# -- outcomes -----------------------------------------------------------------------------------------


async def test_a_record_without_an_outcome_is_a_dead_letter_with_the_reason(store: PartitionStore) -> None:
    async def forgets(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for record in batch.records:
            if record.offset != 2:
                effects.emit(record)
        return effects

    compute, _ = computer(store, forgets)
    (unit,) = await compute.run(events(0, 5))
    ((offset, failure),) = dead([unit])
    assert (offset, failure.reason, failure.message) == (2, "unaccounted", str(failure.exception))
    assert "0 outcomes for 1 records" in failure.message
    assert unit.emitted == 4


async def test_two_outcomes_for_one_record_are_a_dead_letter_too(store: PartitionStore) -> None:
    async def doubles(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for record in batch.records:
            effects.emit(record)
            effects.duplicate(record)
        return effects

    compute, _ = computer(store, doubles)
    (unit,) = await compute.run(events(0, 2))
    assert [failure.reason for _, failure in dead([unit])] == ["unaccounted"] * 2
    assert unit.emitted == unit.duplicates == 0


async def test_a_double_outcome_does_not_hide_a_missing_one(store: PartitionStore) -> None:
    async def mixes_up(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for _ in batch.records:
            effects.duplicate(batch.records[0])
        return effects

    compute, _ = computer(store, mixes_up)
    (unit,) = await compute.run(events(0, 3))
    assert unit.duplicates == 3, "alone, each record is the first of its batch"
    assert dead([unit]) == []


async def test_an_outcome_for_a_record_of_another_batch_is_none_for_this_one(store: PartitionStore) -> None:
    async def strays(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for _ in batch.records:
            effects.emit(event(99))
        return effects

    compute, _ = computer(store, strays)
    (unit,) = await compute.run(events(0, 2))
    assert [offset for offset, _ in dead([unit])] == [0, 1]


async def test_an_unfinished_result_is_a_dead_letter_and_not_a_crash(store: PartitionStore) -> None:
    async def returns_nothing(batch: Batch[Any]) -> Any:
        return None

    compute, _ = computer(store, returns_nothing)
    assert [offset for offset, _ in dead(await compute.run(events(0, 2)))] == [0, 1]


async def test_the_body_gets_lane_topic_records_and_context(store: PartitionStore) -> None:
    seen: list[Any] = []

    async def looks(batch: Batch[Any]) -> Effects:
        seen.append((batch.lane, batch.topic, offsets(batch.records), batch.context))
        return await count(batch)

    compute, _ = computer(store, looks, context="rules")
    await compute.run([event(4, topic="retry"), event(6, topic="retry")])
    assert seen == [(LANE, "retry", [4, 6], "rules")]


# -- size ---------------------------------------------------------------------------------------------


def wide(keys: int, size: int) -> list[FakeRecord]:
    """Records of distinct users with long keys: each adds about ``size`` bytes to the changelog."""
    return [event(offset, f"{offset:0>{size}}") for offset in range(keys)]


async def test_state_that_is_too_large_for_one_changelog_batch_becomes_several_units(store: PartitionStore) -> None:
    compute, state = computer(store, limit=4_000)
    units = await compute.run(wide(10, 500))
    assert len(units) > 1
    assert [offset for unit in units for offset in offsets(unit.records)] == list(range(10))
    assert all(unit.changelog_size <= 4_000 for unit in units)
    assert sum(unit.emitted for unit in units) == 10
    assert dead(units) == []
    assert len(state.hot) == 10


async def test_split_units_count_on_from_each_other(store: PartitionStore) -> None:
    async def fat(batch: Batch[Any]) -> Effects:
        effects = await count(batch)
        for record in batch.records:
            batch.state.view(COUNTS).put(f"{record.offset:0>900}", 1)
        return effects

    compute, _ = computer(store, fat, limit=4_000)
    units = await compute.run(events(0, 6))
    assert len(units) > 1
    assert [output.value for unit in units for _, output in unit.outputs] == [b"1", b"2", b"3", b"4", b"5", b"6"]
    assert units[-1].writes[COUNTS.raw_key("u")] == b"6"


async def test_one_record_whose_state_is_too_large_is_a_dead_letter(store: PartitionStore) -> None:
    records = [event(0), event(1, "x" * 5_000), event(2)]
    compute, state = computer(store, limit=4_000)
    units = await compute.run(records)
    ((offset, failure),) = dead(units)
    assert (offset, failure.stage, failure.reason, failure.disposition) == (1, "publish", "result_too_large", "oversize")
    assert "4000 bytes" in failure.message
    assert COUNTS.raw_key("x" * 5_000) not in state.hot
    assert sum(unit.emitted for unit in units) == 2


async def test_one_output_that_is_too_large_is_a_dead_letter(store: PartitionStore) -> None:
    async def shouts(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for record in batch.records:
            effects.emit(record, Output(OUT, record.key, b"x" * (5_000 if record.offset == 1 else 5)))
        return effects

    compute, _ = computer(store, shouts, limit=4_000)
    units = await compute.run(events(0, 3))
    assert [(offset, failure.reason) for offset, failure in dead(units)] == [(1, "result_too_large")]
    assert sum(unit.emitted for unit in units) == 2


@pytest.mark.parametrize(
    "output", [Output(OUT, b"k" * 5_000, b"v"), Output(OUT, b"k", b"v", (("trace", b"x" * 5_000),))], ids=["key", "headers"]
)
async def test_key_and_headers_of_an_output_count_too(store: PartitionStore, output: Output) -> None:
    async def shouts(batch: Batch[Any]) -> Effects:
        effects = batch.effects()
        for record in batch.records:
            effects.emit(record, output)
        return effects

    compute, _ = computer(store, shouts, limit=4_000)
    units = await compute.run(events(0, 1))
    assert [failure.reason for _, failure in dead(units)] == ["result_too_large"]


async def test_runs_are_joined_into_one_unit_while_they_fit(store: PartitionStore) -> None:
    records: list[Record] = [*wide(6, 100)]
    records[2].value = b"boom"
    compute, _ = computer(store, limit=10_000)
    assert len(await compute.run(records)) == 1

"""One guilty record costs one dead letter: its neighbours are processed, its half-made state is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.damage import DamagedState
from app.engine.api import Batch, Body, Effects, Failure, LaneId, Output, Record
from app.engine.compute import Computed, Computer
from app.engine.crash_files import Run, RunNote
from app.engine.journal import CrashJournal
from app.engine.state import LaneState
from app.engine.store import PartitionStore
from tests.engine.support import COUNTS, LANE, OUT, PoisonPill, count, event, events, offsets, settle
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


# -- the crash journal --------------------------------------------------------------------------------


class Journalled:
    """Computers of one worker over a directory of crash notes. Everything below ``applied`` is durable."""

    def __init__(self, path: Path, store: PartitionStore) -> None:
        self.path, self.store = path / "crashes", store
        self.applied = 0
        self.worker = CrashJournal(self.path, 3)

    def computer(self, body: Body = count, lane: LaneId = LANE) -> Computer:
        """The computer of one lane."""
        journal = self.worker.open(lane, lambda topic, offset: offset < self.applied)
        return Computer(lane, body, None, LaneState(self.store, 1000), 100_000, journal)

    def died_in(self, records: Sequence[Record], times: int = 1, lane: LaneId = LANE) -> Journalled:
        """Earlier processes died while the body worked on ``records``."""
        for _ in range(times):
            CrashJournal(self.path, 3).open(lane, lambda topic, offset: False).begin(records)
        return self

    def noted(self, lane: LaneId = LANE) -> Run | None:
        """What a process that dies now would have died in."""
        note = RunNote(self.path / f"{lane}.note")
        try:
            return note.read()
        finally:
            note.close()


@pytest.fixture
def journalled(tmp_path: Path, store: PartitionStore) -> Journalled:
    return Journalled(tmp_path, store)


class Spy:
    """A body that counts like ``count`` and keeps what it was called with and what was noted meanwhile."""

    def __init__(self, journalled: Journalled) -> None:
        self.runs: list[list[int]] = []
        self.notes: list[tuple[int, int]] = []
        self._journalled = journalled

    async def __call__(self, batch: Batch[Any]) -> Effects:
        self.runs.append(offsets(batch.records))
        if (noted := self._journalled.noted(batch.lane)) is not None:
            self.notes.append((noted.first, noted.last))
        return await count(batch)


async def test_a_run_is_noted_while_the_body_works_and_no_longer(journalled: Journalled) -> None:
    spy = Spy(journalled)
    await journalled.computer(spy).run(events(3, 9))
    assert (spy.runs, spy.notes) == ([[3, 4, 5, 6, 7, 8]], [(3, 8)])
    assert journalled.noted() is None


@pytest.mark.parametrize("error", [PoisonPill("boom"), SystemExit(1), MemoryError()], ids=repr)
async def test_what_a_body_raises_is_a_dead_letter_and_no_crash(journalled: Journalled, error: BaseException) -> None:
    async def raises(batch: Batch[Any]) -> Effects:
        raise error

    assert [offset for offset, _ in dead(await journalled.computer(raises).run(events(0, 2)))] == [0, 1]
    assert journalled.noted() is None


@pytest.mark.parametrize("suspects", [0, 4])
async def test_a_cancelled_run_is_no_crash(journalled: Journalled, suspects: int) -> None:
    async def waits(batch: Batch[Any]) -> Effects:
        await asyncio.Event().wait()
        return batch.effects()

    if suspects:
        journalled.died_in(events(0, suspects))
    task = asyncio.create_task(journalled.computer(waits).run(events(0, 4)))
    await settle()
    assert journalled.noted() is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert journalled.noted() is None
    assert not journalled.worker.turn.locked()


async def test_after_a_crash_suspects_run_alone_and_the_result_is_the_same(journalled: Journalled, store: PartitionStore) -> None:
    records = [event(offset, f"k{offset % 3}", b"boom" if offset == 5 else b"emit") for offset in range(12)]
    (together,) = await computer(store)[0].run(records)
    spy = Spy(journalled.died_in(records[4:8]))
    (alone,) = await journalled.computer(spy).run(records)
    assert spy.runs == [[0, 1, 2, 3], [4], [5], [6], [7], [8, 9, 10, 11]]
    assert spy.notes == [(0, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 11)]
    assert (alone.writes, alone.outputs, alone.emitted) == (together.writes, together.outputs, together.emitted)
    assert [offset for offset, _ in dead([alone])] == [5]
    assert (alone.records, alone.runs) == (records, 6)


async def test_at_the_last_attempt_a_record_is_parked_without_being_run(journalled: Journalled) -> None:
    guilty = event(2, value=b"secret")
    spy = Spy(journalled.died_in([guilty], times=3))
    with capture_logs() as logs:
        (unit,) = await journalled.computer(spy).run([*events(0, 2), guilty, *events(3, 5)])
    assert spy.runs == [[0, 1], [3, 4]]
    ((offset, failure),) = dead([unit])
    assert (offset, failure.stage, failure.reason, failure.disposition) == (2, "aggregate", "crashed_worker", "parked")
    assert failure.message == "the worker process died 3 times while agent count processed this record"
    assert (unit.emitted, unit.writes) == (4, {COUNTS.raw_key("u"): b"4"})
    assert [(entry["offset"], entry["attempts"]) for entry in logs if entry["event"] == "crashing_record_parked"] == [(2, 3)]
    assert "secret" not in str(logs) + failure.message


async def test_below_the_last_attempt_a_record_is_run_again_and_a_success_forgives(journalled: Journalled) -> None:
    compute = journalled.died_in([event(2)], times=2).computer()
    (unit,) = await compute.run(events(0, 4))
    assert (unit.emitted, dead([unit])) == (4, [])
    journalled.died_in([event(2)])
    assert CrashJournal(journalled.path, 3).open(LANE, lambda topic, offset: False).attempts(event(2)) == 1


async def test_a_parked_record_that_comes_again_before_it_is_durable_is_parked_again(journalled: Journalled) -> None:
    compute = journalled.died_in([event(0)], times=3).computer()
    for _ in range(2):
        assert [failure.reason for _, failure in dead(await compute.run([event(0)]))] == ["crashed_worker"]


async def test_once_the_suspects_are_durable_records_run_together_again(journalled: Journalled) -> None:
    spy = Spy(journalled.died_in(events(0, 3)))
    compute = journalled.computer(spy)
    await compute.run(events(0, 3))
    journalled.applied = 3
    await compute.run(events(3, 5))
    await compute.run(events(5, 8))
    assert spy.runs == [[0], [1], [2], [3, 4], [5, 6, 7]]
    assert journalled.worker.is_calm


@pytest.mark.parametrize(("suspects", "most"), [(0, 2), (3, 1)], ids=["calm", "suspicious"])
async def test_only_while_there_are_suspects_lanes_take_turns(journalled: Journalled, suspects: int, most: int) -> None:
    running = highest = 0

    async def waits(batch: Batch[Any]) -> Effects:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        await asyncio.sleep(0.001)
        running -= 1
        return await count(batch)

    if suspects:
        journalled.died_in(events(0, suspects))
    first, second = journalled.computer(waits), journalled.computer(waits, LaneId("count", 1))
    await asyncio.gather(first.run(events(0, 4)), second.run(events(0, 4, "v")))
    assert highest == most


async def test_without_suspects_a_run_never_gives_way(journalled: Journalled) -> None:
    task = asyncio.create_task(journalled.computer().run(events(0, 4)))
    await asyncio.sleep(0)
    assert task.done()

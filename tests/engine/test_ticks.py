"""Runs without records: when they come, what they may do, and that they count nothing that is not there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.engine.api import Batch, Effects, Output, View
from app.engine.lane import Ticks
from app.engine.store import PartitionStore
from tests.engine.support import OUT, SOURCE, Rig, events, new_rig, open_store, settle

#: The value is the time from which on it is due.
DUES: View[int] = View("dues", b"d", lambda due: b"%d" % due, int, due_ms=lambda due: due)
INTERVAL_S = 0.02


class Body:
    """An agent that notes how it is called, closes what is due at ``watermark_ms``, and does what ``then`` says."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int | None]] = []
        self.watermark_ms = -1
        self.then: Callable[[Batch[Any], Effects], None] = lambda batch, effects: None

    async def __call__(self, batch: Batch[Any]) -> Effects:
        self.calls.append((len(batch.records), batch.idle_ms))
        effects = batch.effects()
        for record in batch.records:
            effects.emit(record)
        view = batch.state.view(DUES)
        for key in view.due(self.watermark_ms):
            view.delete(key)
            effects.publish(Output(OUT, None, key.encode()))
        self.then(batch, effects)
        return effects


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[tuple[Rig, Body]]:
    """A lane with ticks whose partition is read to its end; acknowledged by hand."""
    body = Body()
    store = open_store(tmp_path)
    store.apply({DUES.raw_key(f"k{n:04}"): b"%d" % n for n in range(3000)}, -1)
    rig = rig_of(store, body)
    yield rig, body
    await rig.stop()
    store.close()


def rig_of(store: PartitionStore, body: Body, at_end: bool = True, **limits: Any) -> Rig:
    rig = new_rig(store, body, views=(DUES,), ticks=Ticks(SOURCE, INTERVAL_S, lambda: at_end), **limits)
    rig.delivery.acknowledge = True
    rig.lane.progress.start_at(SOURCE, 0)
    return rig


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110 - a test that watches
            await asyncio.sleep(0.005)


async def test_a_quiet_lane_is_called_again_and_again_with_the_time_and_writes_nothing(world: tuple[Rig, Body]) -> None:
    rig, body = world
    rig.lane.start()
    await until(lambda: len(body.calls) >= 3)
    assert all(records == 0 and idle_ms is not None for records, idle_ms in body.calls)
    assert (rig.delivery.outputs, rig.delivery.states, rig.observer.units) == ([], [], [])


async def test_a_partition_that_is_not_read_to_its_end_is_not_told_the_time(tmp_path: Path) -> None:
    body, store = Body(), open_store(tmp_path)
    rig = rig_of(store, body, at_end=False)
    rig.lane.start()
    await until(lambda: len(body.calls) >= 2)
    assert {idle_ms for _, idle_ms in body.calls} == {None}
    await rig.stop()
    store.close()


async def test_a_tick_is_a_unit_when_it_publishes_and_moves_neither_offsets_nor_ledger(world: tuple[Rig, Body]) -> None:
    rig, body = world
    rig.lane.offer(events(0, 3))
    rig.lane.start()
    await until(lambda: rig.durable == 3)
    before = rig.store.marker()
    body.watermark_ms = 1
    await until(lambda: len(rig.observer.units) == 2)
    assert [record.value for record in rig.delivery.outputs[-1].records] == [b"k0000", b"k0001"]
    assert dict(rig.delivery.outputs[-1].records[0].headers)["veltrix-source"] == b"source:0:2:0", "of the last record before"
    assert (rig.store.marker().next_offsets, rig.store.marker().ledger()) == (before.next_offsets, before.ledger())
    assert rig.store.get(DUES.raw_key("k0001")) is None
    assert (rig.observer.units[-1].records, rig.observer.units[-1].topic) == (0, SOURCE)


async def test_a_lane_that_never_had_a_record_can_tick(world: tuple[Rig, Body]) -> None:
    rig, body = world
    body.watermark_ms = 0
    rig.lane.start()
    await until(lambda: len(rig.observer.units) == 1)
    assert (rig.durable, rig.store.marker().consumed) == (-1, 0)


async def test_what_is_left_of_a_long_list_follows_at_once_without_records(world: tuple[Rig, Body]) -> None:
    rig, body = world
    body.watermark_ms = 10_000
    rig.lane.offer(events(0, 1))
    rig.lane.start()
    await until(lambda: sum(len(sent.records) for sent in rig.delivery.outputs) == 3000)
    assert [records for records, _ in body.calls[:3]] == [1, 0, 0], "a thousand each"


async def test_what_does_not_fit_a_batch_is_done_in_smaller_ones_and_no_record_is_to_blame(tmp_path: Path) -> None:
    """A thousand deletes of 29 bytes and their overhead are more than this limit."""
    body, store = Body(), open_store(tmp_path)
    store.apply({DUES.raw_key(f"k{n:04}"): b"%d" % n for n in range(3000)}, -1)
    rig = rig_of(store, body, batch_bytes=20_000)
    body.watermark_ms = 10_000
    rig.lane.offer(events(0, 2))
    rig.lane.start()
    await until(lambda: sum(len(sent.records) for sent in rig.delivery.outputs) == 3000)
    await until(lambda: rig.durable == 2)
    assert rig.store.marker().dead_lettered == 0
    assert rig.fatal.reasons == []
    await rig.stop()
    store.close()


async def test_a_tick_that_raises_is_logged_and_tried_again_and_loses_nothing(world: tuple[Rig, Body]) -> None:
    rig, body = world

    def fail(batch: Batch[Any], effects: Effects) -> None:
        raise ValueError("not today")

    body.then, body.watermark_ms = fail, 0
    with capture_logs() as logs:
        rig.lane.start()
        await until(lambda: len(body.calls) >= 2)
    assert logs[0]["event"] == "tick_failed"
    assert rig.delivery.outputs == []
    body.then = lambda batch, effects: None
    await until(lambda: len(rig.delivery.outputs) == 1)
    assert rig.fatal.reasons == []


async def test_records_come_before_ticks(world: tuple[Rig, Body]) -> None:
    rig, body = world
    rig.lane._ran_at -= 60  # a tick is long overdue
    rig.lane.offer(events(0, 250))  # three units
    rig.lane.start()
    await until(lambda: rig.durable == 250)
    assert [records for records, _ in body.calls[:3]] == [100, 100, 50]


async def test_a_lane_with_ticks_closes_like_any_other(world: tuple[Rig, Body]) -> None:
    rig, _ = world
    rig.lane.start()
    await settle()
    await rig.lane.close()
    assert (rig.fatal.reasons, rig.listener.stopped) == ([], [rig.lane.id])


async def test_records_of_an_agent_that_lingers_wait_for_company_after_the_last_run(tmp_path: Path) -> None:
    body, store = Body(), open_store(tmp_path)
    rig = new_rig(store, body, views=(DUES,), linger_s=0.2)
    rig.delivery.acknowledge = True
    rig.lane.progress.start_at(SOURCE, 0)
    rig.lane.start()
    rig.lane.offer(events(0, 1))
    await until(lambda: rig.durable == 1)
    began = time.monotonic()

    for offset in range(1, 4):
        rig.lane.offer(events(offset, offset + 1))
        await asyncio.sleep(0.01)
    await until(lambda: rig.durable == 4)

    assert [records for records, _ in body.calls] == [1, 3]
    assert time.monotonic() - began >= 0.1
    await rig.stop()
    store.close()


async def test_a_whole_unit_does_not_linger(tmp_path: Path) -> None:
    body, store = Body(), open_store(tmp_path)
    rig = rig_of(store, body, linger_s=60.0, unit_max_records=4)
    rig.lane.start()

    rig.lane.offer(events(0, 3))
    await asyncio.sleep(0.02)
    assert body.calls == []
    rig.lane.offer(events(3, 6))
    await until(lambda: rig.durable == 4)

    assert body.calls == [(4, None)]
    await rig.stop()
    store.close()


async def test_a_lane_that_lingers_stops_at_once_and_leaves_what_waits_to_its_successor(tmp_path: Path) -> None:
    body, store = Body(), open_store(tmp_path)
    rig = rig_of(store, body, linger_s=60.0, unit_max_records=4)
    rig.lane.start()
    rig.lane.offer(events(0, 6))
    await until(lambda: rig.durable == 4)

    async with asyncio.timeout(1):
        await rig.lane.close()

    assert store.marker().next_offsets[SOURCE] == 4
    store.close()

"""The running engine as others see it: real lanes under a consumer that a test controls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from app.engine.engine import SourcePosition
from app.engine.introspect import RunningEngine
from app.engine.status import Ledger
from tests.engine.support import SOURCE, EngineRig, events, settle


@dataclass
class FakeConsumer:
    """Faust's consumer: ends that came with fetches, and positions."""

    ends: dict[TP, int | None] = field(default_factory=dict)
    positions: dict[TP, int | None] = field(default_factory=dict)
    failure: Exception | None = None

    def highwater(self, tp: TP) -> int | None:
        if self.failure is not None:
            raise self.failure
        return self.ends[tp]

    async def position(self, tp: TP) -> int | None:
        if self.failure is not None:
            raise self.failure
        return self.positions[tp]


@dataclass
class Running:
    """One lane on partition 0 of the source."""

    rig: EngineRig
    consumer: FakeConsumer
    known_ends: dict[tuple[str, int], int]
    engine: RunningEngine


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    rig, consumer, known = (
        EngineRig.new(tmp_path, breaker_min_events=5, unit_max_records=5),
        FakeConsumer(),
        dict[tuple[str, int], int](),
    )
    consumer.ends[TP(SOURCE, 0)] = consumer.positions[TP(SOURCE, 0)] = None
    app: Any = SimpleNamespace(engine=rig.engine, consumer=consumer)
    rig.delivery.acknowledge = True
    rig.engine.open_lanes({(SOURCE, 0): SourcePosition(0, 1000, -1)}, {})
    yield Running(rig, consumer, known, RunningEngine(app, known))
    await rig.shut()


async def test_a_lane_shows_its_position_and_its_ledger(running: Running) -> None:
    running.rig.engine.submit(SOURCE, 0, [*events(0, 2), *events(2, 3, value=b"dup"), *events(3, 4, value=b"dead")])
    await settle(100)
    (lane,) = running.engine.lanes()
    assert (lane.topic, lane.next_offset, lane.queued_records, lane.units_in_flight) == (SOURCE, 4, 0, 0)
    assert lane.ledger == Ledger(4, 2, 1, 1)
    assert lane.ledger.residue == 0


async def test_a_marker_that_does_not_add_up_is_visible(running: Running) -> None:
    running.rig.engine.submit(SOURCE, 0, events(0, 2))
    await settle(100)
    (running_lane,) = running.rig.engine.lanes.values()
    marker = running_lane.progress.durable_marker
    running_lane.progress.durable_marker = type(marker)(marker.next_offsets, marker.committed, consumed=2, emitted=1)
    assert [lane.ledger.residue for lane in running.engine.lanes()] == [1]


@pytest.mark.parametrize(("fetched", "asked", "end"), [(None, None, -1), (7, None, 7), (None, 9, 9), (7, 9, 9), (11, 9, 11)])
async def test_the_end_is_the_highest_that_anyone_told(running: Running, fetched: int | None, asked: int | None, end: int) -> None:
    running.consumer.ends[TP(SOURCE, 0)] = fetched
    if asked is not None:
        running.known_ends[SOURCE, 0] = asked
    assert [lane.end_offset for lane in running.engine.lanes()] == [end]


@pytest.mark.parametrize("failure", [ConsumerNotStarted(), KeyError(SOURCE), AssertionError()])
async def test_an_end_that_the_consumer_cannot_tell_any_more_is_the_asked_one(running: Running, failure: Exception) -> None:
    running.known_ends[SOURCE, 0] = 9
    running.consumer.failure = failure
    assert [lane.end_offset for lane in running.engine.lanes()] == [9]


@pytest.mark.parametrize(("position", "told"), [(None, -1), (12, 12)])
async def test_the_position_is_where_the_next_fetch_begins(running: Running, position: int | None, told: int) -> None:
    running.consumer.positions[TP(SOURCE, 0)] = position
    assert await running.engine.position(SOURCE, 0) == told


@pytest.mark.parametrize("failure", [ConsumerNotStarted(), IllegalStateError("not assigned"), TimeoutError()])
async def test_a_position_that_nobody_can_tell_is_unknown(running: Running, failure: Exception) -> None:
    running.consumer.failure = failure
    assert await running.engine.position(SOURCE, 0) == -1


async def test_a_lane_shows_that_its_breaker_holds_it(running: Running) -> None:
    assert running.engine.lanes()[0].held_by == ""
    running.rig.engine.submit(SOURCE, 0, events(0, 20, value=b"dead"))
    await settle(100)
    (lane,) = running.engine.lanes()
    assert (lane.held_by, lane.breaker.state, lane.breaker.openings, lane.paused) == ("breaker", "open", 1, True)
    assert (lane.next_offset, lane.queued_records) == (5, 15)

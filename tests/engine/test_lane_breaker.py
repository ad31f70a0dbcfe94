"""A lane and its breaker: a flood of poison stops at one unit, waits in Kafka, and is tried again in small batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.engine.api import LaneId
from app.engine.breaker import BreakerPolicy, Breakers
from app.engine.engine import SourcePosition
from app.engine.lane import Lane
from app.engine.store import PartitionStore
from tests.engine.support import CHANGELOG, DLQ, LANE, SOURCE, EngineRig, Rig, event, events, new_rig, settle

POLICY = BreakerPolicy(window_s=60.0, min_events=20, ratio=0.5, probe_s=30.0, probe_records=10)


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class BreakerRig:
    """A lane with a breaker on a clock of its own."""

    rig: Rig
    breakers: Breakers
    clock: Clock

    @property
    def state(self) -> str:
        return self.breakers.status(LANE).state

    @property
    def parked(self) -> int:
        """Dead letters sent so far."""
        return sum(len(sent.records) for sent in self.rig.delivery.outputs if sent.topic == DLQ)

    async def offer(self, start: int, stop: int, value: bytes) -> None:
        """Records are fetched, and everything that can happen happens."""
        self.rig.lane.offer(events(start, stop, value=value))
        await settle(200)

    async def wait(self, seconds: float) -> None:
        """The clock goes on, and the lane looks."""
        self.clock.now += seconds
        self.rig.lane._work.set()  # its own alarm rings within a second of real time
        await settle(200)


@pytest.fixture
async def start(store: PartitionStore) -> AsyncIterator[Callable[..., BreakerRig]]:
    """Starts a lane whose outputs are acknowledged at once; arguments as ``new_rig``."""
    rigs: list[Rig] = []

    def begin(**limits: Any) -> BreakerRig:
        rig = new_rig(store, **({"unit_max_records": 20} | limits))
        rig.delivery.acknowledge = True
        clock = Clock()
        breakers = Breakers(POLICY, clock)
        changes: dict[str, Any] = {"breaker": breakers.of(LANE)}
        old = rig.lane
        rig.lane = Lane(old.id, CHANGELOG, replace(old._parts, **changes), old.limits, old.progress)
        rig.lane.start()
        rigs.append(rig)
        return BreakerRig(rig, breakers, clock)

    yield begin
    for rig in rigs:
        await rig.stop()


async def test_a_flood_of_dead_letters_stops_after_the_unit_that_opened_the_breaker(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 500, b"dead")
    assert one.state == "open"
    assert one.parked == one.rig.durable == 20
    assert one.rig.lane.queued == 480, "nothing is dropped"
    assert set(one.rig.pauses) == {True}, "the rest waits in Kafka"
    assert one.rig.fatal.reasons == []


async def test_what_was_taken_before_is_finished_and_may_be_committed(start: Callable[..., BreakerRig]) -> None:
    one = start()
    one.rig.delivery.acknowledge = False
    await one.offer(0, 500, b"dead")
    assert one.rig.lane.units_in_flight == 1
    await one.rig.acknowledge_all()
    assert (one.rig.durable, one.rig.lane.units_in_flight) == (20, 0)


async def test_a_half_open_breaker_tries_a_few_records_and_opens_again_when_they_fail(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 500, b"dead")
    await one.wait(29.0)
    assert one.parked == 20
    await one.wait(1.0)
    assert (one.state, one.parked) == ("open", 30)
    assert one.breakers.status(LANE).openings == 2
    await one.wait(30.0)
    assert one.parked == 40


async def test_a_good_probe_resumes_the_partition(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 20, b"dead")
    await one.offer(20, 120, b"emit")
    assert one.rig.durable == 20
    await one.wait(30.0)
    assert (one.state, one.rig.durable, one.rig.count()) == ("closed", 120, 100)
    assert one.rig.pauses[0] is True
    assert one.rig.pauses[-1] is False


async def test_with_nothing_queued_a_half_open_breaker_fetches_again(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 20, b"dead")
    assert one.rig.pauses[-1] is True
    await one.wait(30.0)
    assert (one.state, one.rig.pauses[-1]) == ("half_open", False)
    await one.offer(20, 23, b"emit")
    assert (one.state, one.rig.durable) == ("half_open", 23)
    await one.offer(23, 40, b"emit")
    assert (one.state, one.rig.durable) == ("closed", 40)


async def test_a_lane_above_its_high_water_mark_stays_paused_while_half_open(start: Callable[..., BreakerRig]) -> None:
    one = start(high_water=100, low_water=50)
    await one.offer(0, 500, b"dead")
    await one.wait(30.0)
    assert False not in one.rig.pauses


async def test_an_operator_lets_the_records_through_without_waiting(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 20, b"dead")
    await one.offer(20, 30, b"emit")
    assert one.rig.durable == 20
    one.breakers.close(LANE)
    async with asyncio.timeout(5):
        while one.rig.durable != 30:  # noqa: ASYNC110 the lane's own alarm, each second
            await asyncio.sleep(0.05)
    assert one.rig.pauses[-1] is False


async def test_a_partition_that_others_resumed_is_paused_again_when_records_come(start: Callable[..., BreakerRig]) -> None:
    """At the end of a recovery Faust resumes all partitions; a breaker that outlived the rebalance is still open."""
    one = start()
    await one.offer(0, 20, b"dead")
    one.rig.pauses.clear()
    await one.offer(20, 40, b"dead")
    assert (one.parked, one.rig.pauses[-1]) == (20, True)


async def test_a_lane_with_an_open_breaker_closes_like_any_other(start: Callable[..., BreakerRig]) -> None:
    one = start()
    await one.offer(0, 500, b"dead")
    await asyncio.wait_for(one.rig.lane.close(), 1)
    assert one.rig.fatal.reasons == []
    assert one.rig.durable == 20


async def test_a_few_dead_letters_among_many_events_stop_nothing(start: Callable[..., BreakerRig]) -> None:
    one = start()
    one.rig.lane.offer([event(n, value=b"dead" if n % 2 else b"emit") for n in range(400)])
    await settle(400)
    assert (one.state, one.rig.durable, one.parked) == ("closed", 400, 200)


# -- the engine ---------------------------------------------------------------------------------------


async def test_a_rebalance_does_not_close_a_breaker(tmp_path: Path) -> None:
    rig = EngineRig.new(tmp_path, breaker_min_events=20, unit_max_records=20)
    rig.delivery.acknowledge = True
    rig.engine.open_lanes({(SOURCE, 0): SourcePosition(0, 1000, -1)}, {})
    rig.engine.submit(SOURCE, 0, events(0, 40, value=b"dead"))
    await settle(200)
    assert rig.engine.breakers.status(LANE).state == "open"
    await rig.engine.close_lanes()
    rig.engine.open_lanes({(SOURCE, 0): SourcePosition(0, 1000, 20)}, {})
    rig.engine.submit(SOURCE, 0, events(20, 60, value=b"dead"))
    await settle(200)
    assert rig.engine.lanes[LANE].queued == 40
    assert rig.engine.breakers.status(LaneId("count", 1)).state == "closed"
    await rig.shut()

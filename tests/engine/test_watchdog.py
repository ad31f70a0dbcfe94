"""What is a stall and what is not. Offsets and the clock are the test's; nothing here waits or connects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

from app.engine.api import LaneId
from app.engine.status import BreakerState, BreakerStatus, LaneStatus
from app.engine.watchdog import LOOKS, EndOffsetClient, EndsUnknown, StallWatchdog
from app.kafka_clients import KafkaConnectError
from app.settings import Settings
from tests.telemetry.fakes import FakeClock
from tests.telemetry.fakes import lane as status

LIMIT_S = 120.0
STEP_S = LIMIT_S / LOOKS
TP = ("interactions", 0)


@dataclass
class World:
    """Lanes, a broker that knows their ends, and a watchdog over both."""

    lanes_: list[LaneStatus] = field(default_factory=list)
    fetched: dict[tuple[str, int], int] = field(default_factory=dict)
    ends: dict[tuple[str, int], int] = field(default_factory=dict)
    broker_up: bool = True
    closed: bool = False
    asked: list[Sequence[tuple[str, int]]] = field(default_factory=list)
    known: dict[tuple[str, int], int] = field(default_factory=dict)
    clock: FakeClock = field(default_factory=FakeClock)

    def __post_init__(self) -> None:
        self.watchdog = StallWatchdog(self, self, LIMIT_S, self.known, self.clock)

    def lanes(self) -> list[LaneStatus]:
        return self.lanes_

    async def position(self, topic: str, partition: int) -> int:
        return self.fetched.get((topic, partition), -1)

    async def ask(self, partitions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        self.asked.append(partitions)
        if not self.broker_up:
            raise EndsUnknown("no broker")
        return {partition: self.ends[partition] for partition in partitions if partition in self.ends}

    async def aclose(self) -> None:
        self.closed = True

    def show(self, partition: int = 0, end: int = 100, **changes: object) -> None:
        """One lane, with 5 records of lag that are still to be fetched."""
        values = {"next_offset": 95, "queued_records": 0, "units_in_flight": 0, "end_offset": 95} | changes
        self.lanes_ = [lane for lane in self.lanes_ if lane.lane.partition != partition] + [status(partition, **values)]
        self.ends["interactions", partition] = end
        self.fetched.setdefault(("interactions", partition), 95)

    async def look(self, times: int = 1, passed: float = STEP_S) -> list[tuple[int, float]]:
        """Time goes on and the watchdog looks; what stalls, as (partition, seconds)."""
        for _ in range(times):
            self.clock.now += passed
            await self.watchdog.look()
        return [(stall.lane.partition, stall.seconds) for stall in self.watchdog.stalls()]


@pytest.fixture
def world() -> World:
    return World()


# -- a stall ------------------------------------------------------------------------------------------


async def test_a_partition_that_does_not_move_for_the_whole_timeout_stalls(world: World) -> None:
    world.show()
    assert await world.look(LOOKS) == []
    assert await world.look() == [(0, LIMIT_S)]
    assert await world.look() == [(0, LIMIT_S + STEP_S)]


async def test_it_says_which_one_and_how_much_waits(world: World) -> None:
    world.show(3, end=1095)
    await world.look(LOOKS + 1)
    (stall,) = world.watchdog.stalls()
    assert (stall.lane, stall.topic, stall.lag) == (LaneId("process_interactions", 3), "interactions", 1000)


async def test_a_dead_fetch_is_seen_although_the_consumer_knows_of_no_lag(world: World) -> None:
    world.show(end_offset=95)
    assert world.lanes_[0].lag == 0
    assert await world.look(LOOKS + 1) == [(0, LIMIT_S)]


@pytest.mark.parametrize("work", [{"queued_records": 5}, {"units_in_flight": 1}, {"paused": True, "units_in_flight": 3}])
async def test_records_in_hand_that_never_become_durable_are_a_stall(world: World, work: dict[str, Any]) -> None:
    world.fetched[TP] = 100
    world.show(**work)
    assert await world.look(LOOKS + 1) == [(0, LIMIT_S)]


async def test_a_lane_that_never_applied_anything_stalls_too(world: World) -> None:
    world.fetched[TP] = 0
    world.show(end=10, next_offset=0)
    assert await world.look(LOOKS + 1) == [(0, LIMIT_S)]


async def test_one_stalled_partition_does_not_accuse_the_others(world: World) -> None:
    world.show(0)
    for step in range(LOOKS + 1):
        world.show(1, next_offset=50 + step)
        await world.look()
    assert [stall.lane.partition for stall in world.watchdog.stalls()] == [0]


async def test_the_longest_stall_comes_first(world: World) -> None:
    world.show(0)
    await world.look()
    world.show(1)
    await world.look(LOOKS + 1)
    assert [stall.lane.partition for stall in world.watchdog.stalls()] == [0, 1]


# -- no stall -----------------------------------------------------------------------------------------


async def test_one_step_forward_starts_the_count_again(world: World) -> None:
    world.show()
    await world.look(LOOKS)
    world.show(next_offset=96)
    assert await world.look(LOOKS) == []
    assert await world.look() == [(0, LIMIT_S)]


async def test_an_event_after_hours_of_silence_is_no_stall(world: World) -> None:
    world.show(end=95, seconds_since_progress=9999.0)
    await world.look(50)
    world.show(end=96, seconds_since_progress=9999.0)
    assert await world.look(LOOKS) == []


async def test_slow_is_not_still(world: World) -> None:
    for step in range(20):
        world.show(end=10_000, next_offset=95 + step)
        assert await world.look() == []


async def test_the_end_marker_of_a_transaction_is_no_work(world: World) -> None:
    """The last offset of the log is a control record: the consumer has read past it, no lane ever sees it."""
    world.show(end=96)
    world.fetched[TP] = 96
    assert await world.look(20) == []


@pytest.mark.parametrize(("state", "stalls"), [("open", 0), ("half_open", 1), ("closed", 1)])
async def test_only_an_open_breaker_holds_a_partition_by_design(world: World, state: BreakerState, stalls: int) -> None:
    world.show(queued_records=5, paused=True, breaker=BreakerStatus(state))
    assert len(await world.look(LOOKS + 1)) == stalls


async def test_the_count_starts_when_the_breaker_lets_go(world: World) -> None:
    world.show(queued_records=5, breaker=BreakerStatus("open"))
    await world.look(20)
    world.show(queued_records=5)
    assert await world.look(LOOKS) == []
    assert await world.look() == [(0, LIMIT_S)]


async def test_while_no_broker_answers_nothing_is_our_stall(world: World) -> None:
    world.show()
    await world.look(LOOKS)
    world.broker_up = False
    assert await world.look(20) == []
    assert world.watchdog.failures == 20
    world.broker_up = True
    assert await world.look(LOOKS) == [], "the time without a broker does not count"
    assert await world.look() == [(0, LIMIT_S)]


async def test_a_partition_without_a_leader_is_not_our_stall_but_the_others_are(world: World) -> None:
    world.show(0)
    world.show(1)
    del world.ends[TP]
    assert await world.look(LOOKS + 1) == [(1, LIMIT_S)]


async def test_a_suspended_process_does_not_wake_up_with_a_stall(world: World) -> None:
    world.show()
    await world.look()
    assert await world.look(passed=86_400.0) == []
    assert world.watchdog.still_seconds() == {TP: 2 * STEP_S}


async def test_a_partition_that_was_given_away_is_forgotten(world: World) -> None:
    world.show()
    await world.look(LOOKS)
    world.lanes_ = []
    await world.look()
    world.show()
    assert await world.look(LOOKS) == []


async def test_without_lanes_no_broker_is_asked(world: World) -> None:
    assert await world.look(3) == []
    assert world.asked == []


# -- what it tells others -----------------------------------------------------------------------------


async def test_the_ends_are_known_to_who_shows_lag_until_they_are_too_old(world: World) -> None:
    world.show()
    await world.look()
    assert world.known == {TP: 100}
    world.broker_up = False
    await world.look()
    assert world.known == {}


async def test_it_looks_a_few_times_per_timeout_and_closes_its_client_at_the_end() -> None:
    world = World()
    world.watchdog = StallWatchdog(world, world, 0.02, world.known)
    world.show()
    task = asyncio.create_task(world.watchdog.run())
    async with asyncio.timeout(5):
        while not world.watchdog.stalls():  # noqa: ASYNC110 nobody is told of a stall, it is asked for
            await asyncio.sleep(0.005)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert world.closed


# -- asking brokers -----------------------------------------------------------------------------------


@dataclass
class FakeKafka:
    """aiokafka's consumer, as far as it is asked for ends."""

    ends: dict[str, int] = field(default_factory=lambda: {"a": 7, "b": 9})
    leaderless: set[str] = field(default_factory=set)
    failure: Exception | None = None
    questions: int = 0
    stopped: bool = False

    async def end_offsets(self, partitions: list[KafkaPartition]) -> dict[KafkaPartition, int]:
        self.questions += 1
        if self.failure is not None:
            raise self.failure
        if self.leaderless & {one.topic for one in partitions}:
            raise KafkaTimeoutError
        return {one: self.ends[one.topic] for one in partitions}

    async def stop(self) -> None:
        self.stopped = True


@dataclass
class Opened:
    """Clients that were made; ``refusal`` is raised instead."""

    clients: list[FakeKafka] = field(default_factory=list)
    refusal: Exception | None = None

    async def __call__(self, settings: Settings) -> Any:
        if self.refusal is not None:
            raise self.refusal
        self.clients.append(FakeKafka())
        return self.clients[-1]


WANTED = [("a", 0), ("b", 1)]


async def test_one_question_for_all_partitions_over_one_connection() -> None:
    opened = Opened()
    client = EndOffsetClient(Settings(), opened)
    assert [await client.ask(WANTED) for _ in range(2)] == [{("a", 0): 7, ("b", 1): 9}] * 2
    assert [one.questions for one in opened.clients] == [2]
    await client.aclose()
    assert opened.clients[0].stopped


async def test_partitions_without_a_leader_do_not_hide_the_others() -> None:
    opened = Opened()
    client = EndOffsetClient(Settings(), opened)
    await client.ask(WANTED)
    opened.clients[0].leaderless = {"a"}
    assert await client.ask(WANTED) == {("b", 1): 9}


@pytest.mark.parametrize("failure", [KafkaTimeoutError(), TopicAuthorizationFailedError(), OSError("reset"), TimeoutError()])
async def test_without_any_answer_the_connection_is_thrown_away(failure: Exception) -> None:
    opened = Opened()
    client = EndOffsetClient(Settings(), opened)
    await client.ask(WANTED)
    opened.clients[0].failure = failure
    with pytest.raises(EndsUnknown):
        await client.ask(WANTED)
    assert opened.clients[0].stopped
    assert await client.ask(WANTED) == {("a", 0): 7, ("b", 1): 9}


async def test_a_broker_that_is_not_there_is_no_answer() -> None:
    with pytest.raises(EndsUnknown, match="nothing listens"):
        await EndOffsetClient(Settings(), Opened(refusal=KafkaConnectError("h:1", "nothing listens"))).ask(WANTED)


async def test_a_broker_that_never_answers_is_no_answer() -> None:
    class Silent(FakeKafka):
        async def end_offsets(self, partitions: list[KafkaPartition]) -> dict[KafkaPartition, int]:
            await asyncio.sleep(3600)
            raise AssertionError

    async def silent(settings: Settings) -> Any:
        return Silent()

    async with asyncio.timeout(5):
        with pytest.raises(EndsUnknown, match="TimeoutError"):
            await EndOffsetClient(Settings(stall_timeout_ms=40), silent).ask(WANTED)


async def test_a_mistake_of_ours_is_not_taken_for_a_broker_that_is_down() -> None:
    opened = Opened()
    client = EndOffsetClient(Settings(), opened)
    with pytest.raises(KeyError):
        await client.ask([("nobody's", 0)])


async def test_closing_what_was_never_opened_does_nothing() -> None:
    await EndOffsetClient(Settings(), Opened()).aclose()

"""The writer against a Redis, a changelog and a table in memory: whatever happens, Redis ends up equal to the table."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.lookups.keys import Cover, unpack_cover
from app.lookups.sync import MAX_COVER_AGE_MS
from app.lookups.writer import LookupWriter, Pace
from app.settings import load_settings
from tests.lookups.fakes import KEYS, LANE, VIEWS, FakeChangelog, FakeStore, FakeTable

NOW_MS = 1_700_000_000_000
QUICK = Pace(flush_s=0.0, cover_s=0.02, first_retry_s=0.001, last_retry_s=0.004)
Wait = Callable[[Callable[[], bool]], Awaitable[None]]


class World:
    """One lane, its table and changelog, a Redis, and the writer of the moment."""

    def __init__(self, **overrides: int) -> None:
        self.settings = load_settings(redis_queue_units=overrides.pop("queue_units", 64), redis_timeout_ms=50)
        self.table = FakeTable()
        self.store = FakeStore()
        self.changelog = FakeChangelog(self.table)
        self.now_ms = NOW_MS
        self.source_offset = 0
        self.start()

    def start(self) -> None:
        """A new process: its writer knows nothing."""
        self.writer = LookupWriter(self.settings, VIEWS, self.store, self.changelog, lambda: self.now_ms, QUICK)

    def assign(self) -> None:
        self.writer.lane_started(self.table)

    def unit(self, writes: dict[bytes, bytes | None]) -> None:
        """One unit becomes durable, and the writer is told."""
        self.source_offset += 1
        unit, stamp, previous = self.table.durable(writes)
        self.writer.unit_durable(LANE, unit, stamp, self.source_offset, previous)

    def kill(self) -> None:
        """kill -9: tasks end where they are, nothing is flushed."""
        for task in [*self.writer._tasks.values(), self.writer._pump]:
            if task is not None:
                task.cancel()

    @property
    def state(self) -> str:
        return self.writer.states()[LANE]

    @property
    def cover(self) -> Cover | None:
        return unpack_cover(self.store.data.get(KEYS.cover))

    def is_settled(self) -> bool:
        """Redis covers the whole table and says so."""
        return self.state == "live" and self.cover is not None and self.cover.position == self.table.changelog_offset()

    async def settle(self) -> None:
        await until(self.is_settled)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not reached():  # noqa: ASYNC110  it asks about several things
            await asyncio.sleep(0.001)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.writer.aclose()


async def test_a_durable_unit_reaches_redis(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a", b"su:1": b"seen"})
    world.unit({b"pu:1": b"b", b"pu:2": b"c"})
    await world.settle()

    assert world.store.lookups() == {b"pu:1": b"b", b"pu:2": b"c"}
    assert world.writer.counters.keys == 2
    assert world.writer.behind() == {LANE: 0}


async def test_a_table_that_redis_never_saw_is_copied(world: World) -> None:
    for number in range(1203):
        world.table.durable({b"pu:%04d" % number: b"%d" % number})
    world.assign()
    await world.settle()

    assert world.store.lookups() == world.table.lookups()
    assert (world.writer.counters.rebuilds, world.writer.counters.catch_ups) == (1, 0)


async def test_what_became_durable_without_reaching_redis_is_caught_up_by_the_next_owner(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a", b"pu:2": b"b"})
    await world.settle()
    world.kill()
    world.table.durable({b"pu:1": b"newer", b"pu:2": None})  # in RocksDB, and the process died before Redis
    assert world.store.lookups()[b"pu:1"] == b"a"
    world.start()
    world.assign()
    await world.settle()

    assert world.store.lookups() == {b"pu:1": b"newer"}
    assert world.writer.counters.rebuilds == 0
    assert world.changelog.replays == [(2, 4 + 1)]


async def test_a_lane_that_redis_covers_whole_is_live_without_reading_anything(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    world.kill()
    world.start()
    world.assign()
    await world.settle()

    assert world.changelog.replays == []
    assert world.writer.counters.rebuilds == 0


async def test_an_idle_lane_notices_that_redis_restarted_empty(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    world.store.data.clear()
    await until(lambda: world.writer.counters.rebuilds == 2)
    await world.settle()

    assert world.store.lookups() == {b"pu:1": b"a"}
    assert world.writer.counters.gaps == 1


async def test_a_busy_lane_notices_that_redis_fell_back_to_an_older_snapshot(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    snapshot = dict(world.store.data)
    world.unit({b"pu:2": b"b"})
    await world.settle()
    world.store.data = snapshot
    world.unit({b"pu:3": b"c"})
    await world.settle()

    assert world.store.lookups() == world.table.lookups()


async def test_a_dead_redis_costs_the_stream_nothing_and_is_caught_up_from_the_changelog(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    rebuilds = world.writer.counters.rebuilds
    world.store.down = True
    for number in range(500):
        world.unit({b"pu:%d" % (number % 50): b"%d" % number})
    await until(lambda: world.state == "down")
    assert world.writer._lanes[LANE].pending == {}
    world.store.down = False
    await world.settle()

    assert world.store.lookups() == world.table.lookups()
    assert world.writer.counters.rebuilds == rebuilds


async def test_a_lost_answer_leaves_no_doubt(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    world.store.drop_answers = 1
    world.unit({b"pu:1": None, b"pu:2": b"b"})
    await until(lambda: world.writer.counters.failures == 1)
    await world.settle()

    assert world.store.lookups() == {b"pu:2": b"b"}


async def test_an_overflow_drops_the_queue_and_catches_up() -> None:
    world = World(queue_units=4)
    world.assign()
    await world.settle()
    world.store.gate = asyncio.Event()
    world.unit({b"pu:first": b"a"})
    await asyncio.sleep(0.005)
    for number in range(40):
        world.unit({b"pu:%d" % number: b"x"})
    assert world.writer.counters.overflows == 1
    world.store.gate.set()
    await world.settle()
    await world.writer.aclose()

    assert world.store.lookups() == world.table.lookups()
    assert world.writer.counters.catch_ups >= 1


async def test_units_during_a_catch_up_are_neither_lost_nor_reordered(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    world.kill()
    for number in range(30):
        world.table.durable({b"pu:1": b"missed %d" % number})
    world.start()
    world.changelog.on_chunk = lambda: world.unit({b"pu:1": b"live %d" % world.source_offset})
    world.assign()
    await until(lambda: world.state == "live")
    world.changelog.on_chunk = lambda: None
    await world.settle()

    assert world.store.lookups() == world.table.lookups()
    assert world.store.lookups()[b"pu:1"].startswith(b"live")
    assert len(world.changelog.replays) == 1


async def test_an_overflow_during_a_catch_up_means_another_round() -> None:
    world = World(queue_units=4)
    for number in range(30):
        world.table.durable({b"pu:1": b"missed %d" % number})
    world.store.data[KEYS.cover] = Cover(1, NOW_MS).pack()
    world.changelog.on_chunk = lambda: world.unit({b"pu:%d" % world.source_offset: b"live"}) if world.source_offset < 12 else None
    world.assign()
    await world.settle()
    world.unit({b"pu:1": b"last"})
    await world.settle()
    await world.writer.aclose()

    assert world.store.lookups() == world.table.lookups()
    assert world.writer.counters.overflows == 1
    assert len(world.changelog.replays) == 2


async def test_a_late_answer_to_a_write_of_before_a_loss_is_ignored() -> None:
    world = World(queue_units=2)
    world.assign()
    await world.settle()
    held = world.store.gate = asyncio.Event()
    world.unit({b"pu:1": b"a"})
    await asyncio.sleep(0.005)
    world.store.gate = None
    for number in range(3):
        world.unit({b"pu:2": b"%d" % number})
    await until(lambda: world.writer.counters.catch_ups == 1 and world.state == "live")
    held.set()
    await world.settle()
    await world.writer.aclose()

    assert world.writer.counters.gaps == 0
    assert world.store.lookups() == world.table.lookups()


async def test_units_during_a_rebuild_are_caught_up_after_it(world: World) -> None:
    for number in range(1100):
        world.table.durable({b"pu:%04d" % number: b"old"})
    numbers = iter(range(100))

    def change() -> None:
        if (number := next(numbers, None)) is not None:
            world.unit({b"pu:%04d" % (number * 11): None, b"pu:%04d" % (1099 - number): b"new", b"pu:x%d" % number: b"new"})

    world.store.on_apply = change
    world.assign()
    await until(lambda: next(numbers, None) is None)
    await world.settle()

    assert world.store.lookups() == world.table.lookups()


async def test_a_cover_older_than_tombstones_live_is_not_trusted(world: World) -> None:
    world.assign()
    world.unit({b"pu:gone": b"a"})
    await world.settle()
    world.kill()
    world.table.durable({b"pu:gone": None})
    world.table.log[-2] = (b"compacted", None)  # the tombstone is gone, the cover still tells of the value
    world.now_ms += MAX_COVER_AGE_MS + 1
    world.start()
    world.assign()
    await world.settle()

    assert world.store.lookups() == {}


async def test_an_idle_lane_keeps_its_cover_young(world: World) -> None:
    world.assign()
    await world.settle()
    world.now_ms += 60_000
    await until(lambda: world.cover is not None and world.cover.written_ms == world.now_ms)

    assert world.is_settled()


@pytest.mark.parametrize("how", ["reset", "trimmed", "recreated"])
async def test_a_changelog_that_no_longer_tells_what_changed_means_rebuild(
    world: World, how: Literal["reset", "trimmed", "recreated"]
) -> None:
    world.assign()
    world.unit({b"pu:1": b"a", b"pu:2": b"b"})
    await world.settle()
    world.kill()
    if how == "reset":
        world.table.reset()
    elif how == "recreated":
        world.table.log.clear()
        world.table.rows.clear()
    else:
        world.table.durable({b"pu:1": None})
        world.changelog.begin = world.table.changelog_offset()
    if how != "trimmed":
        world.table.durable({b"pu:3": b"c"})
    world.start()
    world.assign()
    await world.settle()

    assert world.store.lookups() == world.table.lookups()
    assert world.writer.counters.rebuilds == 1


async def test_an_old_owner_that_still_writes_cannot_bring_back_what_was_deleted(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    old, world.store.gate = world.writer, asyncio.Event()
    old.unit_durable(LANE, {b"pu:1": b"zombie"}, 3, 1, 1)
    await asyncio.sleep(0.005)  # its write is on the way to Redis, held up
    gate, world.store.gate = world.store.gate, None
    world.start()
    world.assign()
    world.unit({b"pu:1": None})
    await world.settle()
    gate.set()
    await asyncio.sleep(0.005)
    for task in (old._pump, *old._tasks.values()):
        assert task is not None
        task.cancel()

    assert world.store.lookups() == {}


async def test_kafka_being_away_delays_lookups_and_nothing_else(world: World) -> None:
    world.assign()
    world.unit({b"pu:1": b"a"})
    await world.settle()
    world.kill()
    world.table.durable({b"pu:1": b"b"})
    world.start()
    world.changelog.error = RuntimeError("no broker")
    world.assign()
    await world.settle()

    assert world.store.lookups() == {b"pu:1": b"b"}
    assert world.writer.counters.failures == 1


async def test_a_stopped_lane_leaves_nothing_behind_and_is_left_alone(world: World) -> None:
    world.assign()
    await world.settle()
    world.unit({b"pu:1": b"a"})
    await world.writer.lane_stopped(LANE)
    world.unit({b"pu:1": b"after"})

    assert world.store.lookups() == {b"pu:1": b"a"}
    assert world.writer.states() == {}


async def test_stopping_a_lane_does_not_wait_for_a_redis_that_hangs(world: World) -> None:
    world.assign()
    await world.settle()
    world.store.gate = asyncio.Event()
    world.unit({b"pu:1": b"a"})
    async with asyncio.timeout(1):
        await world.writer.lane_stopped(LANE)

    assert world.store.lookups() == {}


async def test_stopping_a_lane_ends_its_task_even_if_a_client_takes_the_cancellation_for_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.lookups.writer.CANCEL_AGAIN_S", 0.01)
    swallowed: list[bool] = []

    async def covers(keys: list[bytes]) -> list[bytes | None]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed.append(True)
            raise TimeoutError from None  # as asyncio.timeout does when both come at once
        raise AssertionError

    monkeypatch.setattr(world.store, "covers", covers)
    world.assign()
    await until(lambda: world.state == "catching_up")
    await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await world.writer.lane_stopped(LANE)

    assert swallowed == [True]


async def test_lanes_of_agents_without_lookups_are_not_followed(world: World) -> None:
    world.writer.lane_started(FakeTable(lane=LANE._replace(agent="other")))

    assert world.writer.states() == {}


STEPS = st.lists(
    st.one_of(
        st.dictionaries(
            st.sampled_from([b"pu:1", b"pu:2", b"pu:3", b"su:1"]), st.none() | st.binary(max_size=3), min_size=1, max_size=3
        ),
        st.sampled_from(["down", "up", "empty", "kill", "lose answer", "wait", "stop", "reset"]),
    ),
    max_size=25,
)


async def act(world: World, step: dict[bytes, bytes | None] | str) -> None:
    match step:
        case dict():
            world.unit(step)
        case "down":
            world.store.down = True
        case "up":
            world.store.down = False
        case "empty":
            world.store.data.clear()
        case "lose answer":
            world.store.drop_answers += 1
        case "wait":
            await asyncio.sleep(0.003)
        case "kill":
            world.kill()
            world.start()
            world.assign()
        case "stop":
            await world.writer.lane_stopped(LANE)
            world.assign()
        case "reset":
            world.kill()
            world.table.reset()
            world.start()
            world.assign()


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_whatever_happens_redis_ends_up_equal_to_the_table(steps: list[dict[bytes, bytes | None] | str]) -> None:
    async def run() -> None:
        world = World(queue_units=3)
        world.assign()
        for step in steps:
            await act(world, step)
            await asyncio.sleep(0)
        world.store.down, world.store.drop_answers = False, 0
        await world.settle()
        equal = world.store.lookups() == world.table.lookups()
        await world.writer.aclose()

        assert equal

    asyncio.run(run())

"""Laws of the reference cache: when a stale answer is given, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from app.enrichment.api import Known, Unavailable
from app.enrichment.cache import MAX_REFRESHES
from app.enrichment.entries import ERROR_HOLD_MS
from tests.enrichment.world import ERROR_S, NEGATIVE_S, REVALIDATE_S, TTL_S, World, get, known, settle

# -- stale while revalidate -----------------------------------------------------------------------


async def test_a_stale_row_is_given_at_once_and_refreshed_once_behind(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.clock.pass_s(TTL_S)
    world.store.put("ann", plan="plus")
    world.store.gate = asyncio.Event()
    stale = [await known(cache) for _ in range(3)]
    assert [(answer.value["plan"], answer.is_stale, answer.tier) for answer in stale] == [("basic", True, "process")] * 3
    world.store.gate.set()
    await settle()

    answer = await known(cache)
    assert (answer.value["plan"], answer.is_stale) == ("plus", False)
    assert len(world.store.queries) == 2
    assert (cache.counters.stale, cache.counters.refreshes) == (3, 1)


async def test_past_the_bound_a_stale_row_is_not_given(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.store.put("ann", plan="plus")
    world.clock.pass_s(TTL_S + REVALIDATE_S)

    answer = await known(cache)

    assert (answer.value["plan"], answer.is_stale) == ("plus", False)


async def test_a_stale_row_of_redis_is_given_and_flagged(world: World) -> None:
    await known(world.worker())
    world.clock.pass_s(TTL_S)
    cache = world.worker()

    assert [(a.tier, a.is_stale) for a in [await known(cache), await known(cache)]] == [("redis", True), ("process", True)]
    await settle()
    assert not (await known(cache)).is_stale


async def test_one_worker_refreshes_for_all(world: World) -> None:
    workers = [world.worker() for _ in range(5)]
    for worker in workers:
        await known(worker)
    world.clock.pass_s(TTL_S)
    for worker in workers:
        await known(worker)
    await settle()
    for worker in workers:
        await known(worker)
    await settle()

    assert [(await known(worker)).is_stale for worker in workers] == [False] * 5
    assert len(world.store.queries) == 2
    assert sum(worker.counters.lease_waits for worker in workers) == 0


async def test_refreshes_that_ended_make_room_for_others(world: World) -> None:
    cache = world.worker(redis=False)
    await known(cache)
    for _ in range(MAX_REFRESHES + 2):
        world.clock.pass_s(TTL_S)
        assert (await known(cache)).is_stale
        await settle()

    assert not (await known(cache)).is_stale


@pytest.mark.parametrize("redis", [True, False])
async def test_a_refresh_does_not_queue_for_a_place(world: World, redis: bool) -> None:
    cache = world.worker(redis=redis, reference_concurrency=1)
    await known(cache)
    world.clock.pass_s(TTL_S)
    world.store.gate = asyncio.Event()
    busy = asyncio.create_task(known(cache, "bob"))
    await settle()
    assert (await known(cache)).is_stale
    await settle()

    assert cache.counters.shed == 1
    world.store.gate.set()
    await busy


async def test_a_failed_refresh_takes_nothing_from_the_time_that_a_stale_row_is_given(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.clock.pass_s(TTL_S)
    world.store.down = True
    await known(cache)
    await settle()
    assert cache.counters.errors == 1
    world.clock.pass_s(REVALIDATE_S - 1)
    assert (await known(cache)).is_stale

    assert cache.counters.stale_on_error == 0


async def test_whoever_needs_a_row_that_a_refresh_gave_up_on_loads_it_himself(world: World) -> None:
    cache = world.worker(reference_concurrency=1)
    await known(cache)
    world.clock.pass_s(TTL_S)
    world.store.gate = asyncio.Event()
    busy = asyncio.create_task(known(cache, "bob"))
    await settle()
    world.shared.gate = asyncio.Event()
    await known(cache)
    await settle()
    world.clock.pass_s(REVALIDATE_S)
    waiting = asyncio.create_task(known(cache))
    await settle()
    world.shared.gate.set()
    await settle()
    assert cache.counters.shed == 1
    world.store.gate.set()

    assert not (await waiting).is_stale
    await busy


async def test_refreshes_are_bounded_and_the_others_stay_stale(world: World) -> None:
    cache = world.worker(redis=False, reference_concurrency=64)
    keys = [f"k{n}" for n in range(MAX_REFRESHES + 5)]
    await cache.get_many("users", keys)
    for key in keys:
        world.store.put(key)
    await cache.invalidate("users", keys)
    await cache.get_many("users", keys)
    world.clock.pass_s(TTL_S)
    world.store.gate = asyncio.Event()
    for key in keys:
        assert (await known(cache, key)).is_stale
    await settle()

    assert world.store.running == MAX_REFRESHES
    assert cache.counters.shed == 5
    world.store.gate.set()
    await cache.aclose()


# -- stale if error -------------------------------------------------------------------------------


async def test_while_the_database_is_away_a_row_is_given_up_to_its_bound(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.store.down = True
    world.clock.pass_s(TTL_S + REVALIDATE_S)
    answer = await known(cache)
    assert (answer.is_stale, answer.value["plan"]) == (True, "basic")
    world.clock.pass_s(ERROR_S - REVALIDATE_S - 0.001)
    assert (await known(cache)).is_stale
    world.clock.pass_s(0.001)

    assert isinstance(await get(cache), Unavailable)
    assert cache.counters.stale_on_error >= 1


async def test_a_worker_that_remembers_nothing_gives_what_redis_has(world: World) -> None:
    await known(world.worker())
    world.store.down = True
    world.clock.pass_s(TTL_S + REVALIDATE_S)

    answer = await known(world.worker())

    assert (answer.is_stale, answer.tier) == (True, "redis")


async def test_an_absent_row_is_remembered_through_an_outage_too(world: World) -> None:
    cache = world.worker()
    await known(cache, "dan")
    world.store.down = True
    world.clock.pass_s(NEGATIVE_S)

    answer = await known(cache, "dan")

    assert (answer.found, answer.is_stale) == (False, True)


async def test_in_an_outage_the_database_is_asked_once_a_second_for_a_row_not_for_every_batch(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.store.down = True
    world.clock.pass_s(TTL_S + REVALIDATE_S)
    for _ in range(20):
        await known(cache)
    await settle()
    assert len(world.store.queries) <= 3
    world.store.down = False
    world.clock.pass_s(ERROR_HOLD_MS / 1000)

    assert not (await known(cache)).is_stale


async def test_nothing_remembered_is_unavailable_and_found_when_the_database_is_back(world: World) -> None:
    cache = world.worker()
    world.store.down = True
    assert await get(cache) == Unavailable("database_down")
    assert cache.counters.unavailable == 1
    world.store.down = False

    assert (await known(cache)).found


async def test_a_failed_load_gives_up_its_leases(world: World) -> None:
    world.store.down = True
    await get(world.worker())

    assert not [key for key in world.shared.data if key.startswith("lease:")]


async def test_a_bug_in_a_load_is_an_unavailable_answer(world: World) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    world.store.on_query = bug
    cache = world.worker()

    assert await get(cache) == Unavailable("failed")
    world.store.on_query = lambda: None
    assert isinstance(await get(cache), Known)

"""Laws of the reference cache: a change that was told is visible, whatever was under way."""

from __future__ import annotations

import asyncio

from app.enrichment.api import Unavailable
from tests.enrichment.world import REVALIDATE_S, TTL_S, World, get, known, settle


async def test_a_change_is_visible_when_its_invalidation_returns(world: World) -> None:
    cache, other = world.worker(), world.worker()
    await known(cache)
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])

    assert (await known(cache)).value["plan"] == "plus"
    assert (await known(other)).value["plan"] == "plus"
    assert cache.counters.invalidated == 1


async def test_a_load_under_way_never_leaves_the_old_value(world: World) -> None:
    cache, other = world.worker(), world.worker()
    world.store.gate = asyncio.Event()
    early = asyncio.create_task(known(cache))
    await settle()
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])
    late = asyncio.create_task(known(cache))
    await settle()
    assert len(world.store.queries) == 2
    world.store.gate.set()

    assert (await late).value["plan"] == "plus"
    assert (await early).value["plan"] == "plus"
    assert (await known(cache)).value["plan"] == "plus"
    assert (await known(other)).value["plan"] == "plus"
    assert cache.counters.overtaken == 1


async def test_a_load_of_another_worker_under_way_never_leaves_the_old_value_in_redis(world: World) -> None:
    cache, other = world.worker(), world.worker()
    world.store.gate = asyncio.Event()
    loading = asyncio.create_task(known(other))
    await settle()
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])
    world.store.gate.set()
    await loading

    assert (await known(cache)).value["plan"] == "plus"


async def test_a_value_on_its_way_from_redis_is_not_kept(world: World) -> None:
    first, cache = world.worker(), world.worker()
    await known(first)
    world.shared.gate = asyncio.Event()
    reading = asyncio.create_task(known(cache))
    await settle()
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])
    world.shared.gate.set()
    await reading

    assert (await known(cache)).value["plan"] == "plus"


async def test_a_value_taken_from_redis_just_before_it_is_told_is_not_kept(world: World) -> None:
    first, cache = world.worker(), world.worker()
    await known(first)
    world.store.put("ann", plan="plus")
    world.shared.before_forget = lambda: known(cache)
    await cache.invalidate("users", ["ann"])

    assert (await known(cache)).value["plan"] == "plus"


async def test_an_old_row_of_redis_does_not_come_back_by_an_outage(world: World) -> None:
    first, cache = world.worker(), world.worker()
    await known(first)
    world.clock.pass_s(TTL_S + REVALIDATE_S)
    world.store.down = True
    world.store.gate = asyncio.Event()
    loading = asyncio.create_task(get(cache))
    await settle()
    await cache.invalidate("users", ["ann"])
    world.store.gate.set()

    assert await loading == Unavailable("database_down")
    assert cache.sizes()["users"] == 0


async def test_a_refresh_under_way_never_leaves_the_old_value(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.clock.pass_s(TTL_S)
    world.store.gate = asyncio.Event()
    await known(cache)
    await settle()
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])
    world.store.gate.set()
    await settle()

    assert (await known(cache)).value["plan"] == "plus"


async def test_an_invalidation_that_cannot_reach_redis_makes_it_distrust_what_is_there(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.shared.down = True
    world.store.put("ann", plan="plus")
    await cache.invalidate("users", ["ann"])
    world.shared.down = False
    world.clock.pass_s(10)
    await known(cache, "bob")
    await settle()
    assert cache._shared.breaker.is_closed

    assert (await known(cache)).value["plan"] == "plus"


async def test_an_invalidated_row_is_not_given_in_an_outage(world: World) -> None:
    cache = world.worker()
    await known(cache)
    await cache.invalidate("users", ["ann"])
    world.store.down = True

    assert await get(cache) == Unavailable("database_down")


async def test_a_key_that_changes_all_the_time_is_answered_all_the_same(world: World) -> None:
    cache = world.worker(redis=False)
    changes: list[asyncio.Task[None]] = []
    world.store.on_query = lambda: changes.append(asyncio.create_task(cache.invalidate("users", ["ann"])))

    assert (await known(cache)).found
    assert len(world.store.queries) == 3
    await asyncio.gather(*changes)

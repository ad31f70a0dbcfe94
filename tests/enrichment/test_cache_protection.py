"""Laws of the reference cache: what its services, and those who wait for them, are spared."""

from __future__ import annotations

import asyncio

from app.enrichment.api import Known, Unavailable
from app.enrichment.gates import REDIS_CALLS
from tests.enrichment.world import TTL_S, World, get, known, settle

# -- breakers -------------------------------------------------------------------------------------


async def test_the_breaker_of_the_database_opens_probes_with_one_query_and_closes(world: World) -> None:
    cache = world.worker(redis=False)
    world.store.down = True
    reasons = [await get(cache) for _ in range(7)]
    assert reasons == [Unavailable("database_down")] * 5 + [Unavailable("breaker_open")] * 2
    assert cache.away == ["reference"]
    assert len(world.store.queries) == 5
    world.clock.pass_s(0.5)
    world.store.gate = asyncio.Event()
    probes = [asyncio.create_task(get(cache, key)) for key in ("ann", "bob", "cid")]
    await settle()
    assert len(world.store.queries) == 6
    world.store.gate.set()
    assert sorted(str(answer) for answer in await asyncio.gather(*probes)) == [
        "Unavailable(reason='breaker_open')", "Unavailable(reason='breaker_open')", "Unavailable(reason='database_down')",
    ]  # fmt: skip
    world.store.down = False
    world.clock.pass_s(1)
    assert isinstance(await get(cache), Known)
    assert cache.away == []

    assert isinstance(await get(cache, "bob"), Known)


async def test_an_open_breaker_costs_no_lease_and_no_refresh(world: World) -> None:
    cache = world.worker()
    await known(cache)
    world.store.down = True
    for key in ("a", "b", "c", "d", "e"):
        await get(cache, key)
    world.shared.calls.clear()
    assert await get(cache, "f") == Unavailable("breaker_open")
    assert world.shared.calls == ["read"]
    world.clock.pass_s(TTL_S)
    for key in ("a", "b", "c", "d", "e"):
        await get(cache, key)
    assert (await known(cache)).is_stale

    assert cache.counters.refreshes == 0


async def test_a_dead_redis_costs_one_call_then_nothing(world: World) -> None:
    cache = world.worker()
    world.shared.down = True
    answers = [await known(cache, key) for key in ("ann", "bob", "cid", "dan")]
    await cache.invalidate("users", ["ann"])

    assert [answer.tier for answer in answers] == ["database"] * 4
    assert world.shared.calls == ["read"]
    assert cache.counters.redis_errors == 1
    assert cache.away == ["reference cache"]


async def test_calls_of_redis_that_waited_for_others_see_that_it_is_dead(world: World) -> None:
    cache = world.worker()
    world.shared.down = True

    answers = await asyncio.gather(*(known(cache, f"k{n}") for n in range(50)))

    assert {answer.tier for answer in answers} == {"database"}
    assert world.shared.calls == ["read"] * REDIS_CALLS


async def test_a_dead_redis_is_probed_behind_and_used_again(world: World) -> None:
    cache = world.worker()
    world.shared.down = True
    await known(cache)
    world.clock.pass_s(0.5)
    await known(cache, "bob")
    await settle()
    assert world.shared.calls == ["read", "ping"]
    world.shared.down = False
    world.clock.pass_s(1)
    await known(cache, "cid")
    await settle()
    world.shared.calls.clear()
    await known(cache, "dan")

    assert world.shared.calls == ["read", "lease", "finish"]


# -- budget ---------------------------------------------------------------------------------------


async def test_queries_stay_within_the_budget_and_whoever_cannot_wait_is_shed(world: World) -> None:
    cache = world.worker(redis=False, reference_queries_per_s=10, reference_timeout_ms=500)
    began = world.clock()
    answers = [await get(cache, f"k{n}") for n in range(40)]
    passed_s = (world.clock() - began) / 1000

    assert all(isinstance(answer, Known) for answer in answers)
    assert len(world.store.queries) == 40
    assert 10 + 10 * passed_s + 1 >= 40


async def test_a_crowd_is_shed_above_the_budget(world: World) -> None:
    frozen = world.clock()
    world.clock.sleep = lambda seconds: asyncio.sleep(0)  # type: ignore[method-assign]
    cache = world.worker(redis=False, reference_queries_per_s=10, reference_timeout_ms=500)

    answers = await asyncio.gather(*(get(cache, f"k{n}") for n in range(40)))

    assert world.clock() == frozen
    assert len(world.store.queries) == 15
    assert answers.count(Unavailable("over_budget")) == cache.counters.shed == 25


async def test_no_more_queries_at_one_time_than_places(world: World) -> None:
    cache = world.worker(redis=False, reference_concurrency=3)

    await asyncio.gather(*(get(cache, f"k{n}") for n in range(20)))

    assert world.store.most_running == 3

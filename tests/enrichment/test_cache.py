"""Laws of the reference cache, on fakes: tiers, single flight, time, bounds."""

from __future__ import annotations

import asyncio

import pytest

from app.enrichment.api import Known, Unavailable, UnknownReference
from app.enrichment.loader import LEASE_POLLS
from app.enrichment.shared import pack
from tests.enrichment.fakes import USERS
from tests.enrichment.world import NEGATIVE_S, PREFIX, REVALIDATE_S, TTL_S, World, get, known, settle

# -- tiers ----------------------------------------------------------------------------------------


async def test_an_answer_comes_from_the_nearest_tier_and_is_the_same_from_each(world: World) -> None:
    first, second = world.worker(), world.worker()

    answers = [await known(first), await known(first), await known(second), await known(second)]

    assert [answer.tier for answer in answers] == ["database", "process", "redis", "process"]
    assert {answer.raw for answer in answers} == {b'{"plan":"basic","country":"DE","signup_date":"2024-05-01"}'}
    assert {answer.as_of_ms for answer in answers} == {world.clock()}
    assert all(answer.value == world.store.rows["users"]["ann"] and answer.found for answer in answers)
    assert len(world.store.queries) == 1


async def test_a_batch_costs_one_query_and_three_calls_of_redis(world: World) -> None:
    cache = world.worker()

    answers = await cache.get_many("users", ["ann", "bob", "nobody", "ann"])

    assert set(answers) == {"ann", "bob", "nobody"}
    assert world.store.queries == [["ann", "bob", "nobody"]]
    assert world.shared.calls == ["read", "lease", "finish"]


async def test_the_hit_path_asks_nobody(world: World) -> None:
    cache = world.worker()
    await cache.get_many("users", ["ann", "bob"])
    world.shared.calls.clear()

    found, missing = cache.get_cached("users", ["ann", "cid", "bob"])

    assert (list(found), missing) == (["ann", "bob"], ["cid"])
    assert world.shared.calls == []


async def test_tables_are_apart(world: World) -> None:
    cache = world.worker()
    world.store.rows["items"]["ann"] = {"title": "Ann", "category": "books", "price": 1}
    await known(cache)

    answer = (await cache.get_many("items", ["ann"]))["ann"]

    assert isinstance(answer, Known)
    assert answer.value["title"] == "Ann"


async def test_an_undeclared_table_is_a_mistake(world: World) -> None:
    with pytest.raises(UnknownReference, match="no reference table 'shops'; declared are: items, users"):
        await world.worker().get_many("shops", ["a"])


async def test_an_entry_in_redis_that_cannot_be_read_is_written_over(world: World) -> None:
    for junk in (b"x", pack(world.clock(), b"{"), b""):
        world.shared.data = {PREFIX + "ann": (junk, world.clock() + 1000)}
        assert (await known(world.worker())).tier == "database"
        assert (await known(world.worker())).tier == "redis"


@pytest.mark.parametrize("key", ["\ud800", "a\udfffb"])
async def test_a_key_that_is_no_text_exists_nowhere_and_harms_nobody(world: World, key: str) -> None:
    answers = await world.worker().get_many("users", [key, "ann"])

    assert {name: isinstance(answer, Known) and answer.found for name, answer in answers.items()} == {key: False, "ann": True}
    assert world.queried == ["ann"]
    await world.worker().invalidate("users", [key])


# -- single flight --------------------------------------------------------------------------------


@pytest.mark.parametrize("redis", [True, False])
async def test_a_stampede_of_batches_costs_one_query_per_distinct_key(world: World, redis: bool) -> None:
    cache = world.worker(redis=redis)
    keys = [f"k{n}" for n in range(60)]
    for key in keys:
        world.store.put(key)
    batches = [keys[n : n + 10] for n in range(50)]

    answers = await asyncio.gather(*(cache.get_many("users", batch) for batch in batches))

    assert [sorted(given) for given in answers] == [sorted(batch) for batch in batches]
    assert sorted(world.queried) == sorted(set().union(*batches))


async def test_a_stampede_of_workers_costs_one_query_per_distinct_key(world: World) -> None:
    workers = [world.worker() for _ in range(10)]

    answers = await asyncio.gather(*(worker.get_many("users", ["ann", "bob", "cid"]) for worker in workers))

    assert all(len(given) == 3 for given in answers)
    assert sorted(world.queried) == ["ann", "bob", "cid"]
    assert sum(worker.counters.lease_waits for worker in workers) == 27


async def test_a_holder_of_a_lease_that_died_holds_nobody_up_for_long(world: World) -> None:
    await world.shared.lease([PREFIX + "ann"], b"dead", 60_000)
    before = world.clock()

    assert (await known(world.worker())).tier == "database"
    assert world.clock() - before <= LEASE_POLLS * 30


async def test_whoever_stops_waiting_ends_no_load(world: World) -> None:
    cache = world.worker()
    world.store.gate = asyncio.Event()
    impatient = asyncio.create_task(get(cache))
    patient = asyncio.create_task(get(cache))
    await settle()
    impatient.cancel()
    await settle()
    world.store.gate.set()

    assert isinstance(await patient, Known)
    assert len(world.store.queries) == 1


# -- time -----------------------------------------------------------------------------------------


async def test_a_row_is_fresh_for_its_ttl_on_every_worker_counted_from_the_query(world: World) -> None:
    first, second = world.worker(), world.worker()
    await known(first)
    world.clock.pass_s(TTL_S - 1)
    assert not (await known(second)).is_stale
    world.clock.pass_s(0.999)
    assert second.get_cached("users", ["ann"])[1] == []
    world.clock.pass_s(0.001)

    assert first.get_cached("users", ["ann"])[1] == second.get_cached("users", ["ann"])[1] == ["ann"]


async def test_the_jitter_spreads_the_ends_of_rows_that_were_loaded_together(world: World) -> None:
    users = USERS.model_copy(update={"ttl_jitter": 0.2})
    keys = [f"k{n}" for n in range(1000)]
    ends = []
    for _ in range(2):
        cache = world.worker(users=users, redis=False)
        await cache.get_many("users", keys)
        for key in keys:
            world.store.put(key)
        await cache.invalidate("users", keys)
        await cache.get_many("users", keys)
        ends.append([cache._tables["users"].entries[key].fresh_until_ms - world.clock() for key in keys])

    assert ends[0] == ends[1]
    assert 0.8 * TTL_S * 1000 <= min(ends[0]) < 0.81 * TTL_S * 1000
    assert 0.99 * TTL_S * 1000 < max(ends[0]) <= TTL_S * 1000
    tenths = [sum(80 + 2 * n <= end / 1000 < 82 + 2 * n for end in ends[0]) for n in range(10)]
    assert min(tenths) > 60


async def test_an_absent_row_is_remembered_for_its_own_time(world: World) -> None:
    cache = world.worker()
    answer = await known(cache, "dan")
    assert (answer.found, answer.value) == (False, {"plan": "unknown", "country": None, "signup_date": None})
    assert answer.raw == b'{"plan":"unknown","country":null,"signup_date":null}'
    world.store.put("dan")
    world.clock.pass_s(NEGATIVE_S - 0.001)
    assert not (await known(cache, "dan")).found
    assert not (await known(world.worker(), "dan")).found
    world.clock.pass_s(0.001)

    assert (await known(cache, "dan")).found
    assert cache.counters.negative == 1


# -- bounds and the end ---------------------------------------------------------------------------


async def test_the_least_recently_used_row_leaves_a_full_cache(world: World) -> None:
    cache = world.worker(reference_cached_rows=3)
    await cache.get_many("users", ["ann", "bob", "cid"])
    cache.get_cached("users", ["ann"])
    await cache.get_many("users", ["dan"])

    assert cache.sizes() == {"users": 3, "items": 0}
    assert cache.get_cached("users", ["ann", "bob", "cid", "dan"])[1] == ["bob"]
    assert cache.counters.evicted == 1


async def test_a_row_that_was_loaded_again_is_recently_used(world: World) -> None:
    cache = world.worker(reference_cached_rows=2)
    await cache.get_many("users", ["ann", "bob"])
    world.clock.pass_s(TTL_S + REVALIDATE_S)
    await cache.get_many("users", ["ann"])
    await cache.get_many("users", ["cid"])

    assert list(cache._tables["users"].entries) == ["ann", "cid"]


async def test_nothing_is_left_of_loads(world: World) -> None:
    cache = world.worker()
    await asyncio.gather(*(cache.get_many("users", [f"k{n}", f"k{n + 1}"]) for n in range(50)))
    await settle()

    assert cache._tables["users"].flights == {}
    assert cache._tasks == set()


async def test_closing_ends_loads_and_tells_whoever_waits(world: World) -> None:
    cache = world.worker()
    world.store.gate = asyncio.Event()
    waiting = asyncio.create_task(get(cache))
    await settle()
    closing = asyncio.create_task(cache.aclose())

    assert await waiting == Unavailable("failed")
    await closing
    assert world.store.down

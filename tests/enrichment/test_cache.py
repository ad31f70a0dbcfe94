"""Laws of the reference cache, on fakes: time passes when told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from app.enrichment.api import Answer, Known, Unavailable, UnknownReference
from app.enrichment.cache import MAX_REFRESHES, ReferenceCache
from app.enrichment.entries import ERROR_HOLD_MS
from app.enrichment.gates import REDIS_CALLS
from app.enrichment.loader import LEASE_POLLS
from app.enrichment.opening import build_cache
from app.enrichment.shared import key_prefix, pack
from app.settings import load_settings
from tests.enrichment.fakes import ITEMS, USERS, Clock, FakeShared, FakeStore

PREFIX = key_prefix("veltrix", USERS)
TTL_S, NEGATIVE_S, REVALIDATE_S, ERROR_S = 100, 10, 50, 1000


@dataclass
class World:
    """One database, one Redis, one clock; a worker is a cache of its own."""

    clock: Clock = field(default_factory=Clock)
    store: FakeStore = field(default_factory=FakeStore)

    def __post_init__(self) -> None:
        self.shared = FakeShared(self.clock)
        for key in ("ann", "bob", "cid"):
            self.store.put(key)

    def worker(self, *, users: object = USERS, redis: bool = True, **settings: object) -> ReferenceCache:
        assert isinstance(users, type(USERS))
        shared = self.shared if redis else None
        return build_cache(
            load_settings(**settings), {"users": users, "items": ITEMS}, self.store, shared, self.clock, self.clock.sleep
        )

    @property
    def queried(self) -> list[str]:
        return [key for query in self.store.queries for key in query]


@pytest.fixture
def world() -> World:
    return World()


async def get(cache: ReferenceCache, key: str = "ann") -> Answer:
    return (await cache.get_many("users", [key]))[key]


async def known(cache: ReferenceCache, key: str = "ann") -> Known:
    answer = await get(cache, key)
    assert isinstance(answer, Known)
    return answer


async def settle() -> None:
    """Let what runs in the background run."""
    for _ in range(40):
        await asyncio.sleep(0)


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


# -- breakers -------------------------------------------------------------------------------------


async def test_the_breaker_of_the_database_opens_probes_with_one_query_and_closes(world: World) -> None:
    cache = world.worker(redis=False)
    world.store.down = True
    reasons = [await get(cache) for _ in range(7)]
    assert reasons == [Unavailable("database_down")] * 5 + [Unavailable("breaker_open")] * 2
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


# -- invalidation ---------------------------------------------------------------------------------


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

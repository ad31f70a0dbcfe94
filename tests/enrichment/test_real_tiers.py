"""The reference cache on a real Redis and a real PostgreSQL: what fakes cannot vouch for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.enrichment.api import Answer, Known
from app.enrichment.cache import ReferenceCache
from app.enrichment.gates import REDIS_CALLS
from app.enrichment.opening import build_cache
from app.enrichment.schema import create_default_schema, seed_reference
from app.enrichment.shared import RedisTier
from app.enrichment.store import SqlReferenceStore, make_engine
from app.lookups.connect import redis_client
from app.settings import Settings, load_settings
from deploy.local.ports import free_ports
from deploy.local.postgres import LocalPostgres
from deploy.local.redis import LocalRedis
from tests.enrichment.fakes import ITEMS, USERS

pytestmark = pytest.mark.integration

MakeWorker = Callable[..., Awaitable[ReferenceCache]]


@pytest.fixture
def settings(postgres: LocalPostgres, redis: LocalRedis) -> Settings:
    redis.flush()
    # One slow answer of a busy machine must not open the breaker of Redis.
    return load_settings(
        reference_url=postgres.url, redis_url=redis.url, reference_timeout_ms=2000, reference_redis_timeout_ms=2000
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS users, items CASCADE"))
    await create_default_schema(engine)
    await seed_reference(engine, 300, 20)
    yield engine
    await engine.dispose()


@pytest.fixture
def queried() -> list[str]:
    """Keys that any worker asked the database for."""
    return []


@pytest.fixture
async def worker(settings: Settings, database: AsyncEngine, queried: list[str]) -> AsyncIterator[MakeWorker]:
    """Make workers, each with its own connections."""
    closers: list[Callable[[], Awaitable[None]]] = []

    async def make(**overrides: object) -> ReferenceCache:
        own = settings.model_copy(update=overrides)
        client = redis_client(own, "enrichment", own.reference_redis_timeout_ms / 1000, REDIS_CALLS + 1)
        store = SqlReferenceStore(make_engine(own), own.reference_timeout_ms / 1000)
        await store.check([USERS, ITEMS])
        event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *args: queried.extend(args[3][0]))
        cache = build_cache(own, {"users": USERS, "items": ITEMS}, store, RedisTier(client, own.reference_redis_timeout_ms / 1000))
        closers.extend((cache.aclose, client.aclose))
        return cache

    yield make
    for close in closers:
        await close()


def plan(answer: Answer) -> object:
    assert isinstance(answer, Known)
    return answer.value["plan"]


async def test_a_stampede_of_batches_and_workers_asks_for_each_key_once(worker: MakeWorker, queried: list[str]) -> None:
    workers = [await worker(), await worker()]
    keys = [f"user-{n:06d}" for n in range(70)]
    batches = [keys[n % 50 : n % 50 + 20] for n in range(50)]

    answers = await asyncio.gather(*(cache.get_many("users", batch) for batch in batches for cache in workers))

    assert all(isinstance(answer, Known) and answer.found for given in answers for answer in given.values())
    assert sorted(queried) == sorted(set().union(*batches))


async def test_what_one_worker_fetched_another_has_from_redis_byte_for_byte(worker: MakeWorker) -> None:
    first, second = await worker(), await worker()
    keys = ["user-000001", "nobody"]

    from_database = await first.get_many("users", keys)
    from_redis = await second.get_many("users", keys)

    assert [(a.tier, b.tier) for a, b in zip(from_database.values(), from_redis.values(), strict=True)
            if isinstance(a, Known) and isinstance(b, Known)] == [("database", "redis")] * 2  # fmt: skip
    for key in keys:
        one, other = from_database[key], from_redis[key]
        assert isinstance(one, Known)
        assert isinstance(other, Known)
        assert (one.value, one.raw, one.found, one.as_of_ms) == (other.value, other.raw, other.found, other.as_of_ms)


async def test_a_change_is_visible_on_every_worker_that_was_told(worker: MakeWorker, database: AsyncEngine) -> None:
    first, second = await worker(), await worker()
    for cache in (first, second):
        assert plan((await cache.get_many("users", ["user-000001"]))["user-000001"]) == "basic"
    async with database.begin() as connection:
        await connection.execute(text("UPDATE users SET plan = 'gold' WHERE user_id = 'user-000001'"))
    for cache in (first, second):
        await cache.invalidate("users", ["user-000001"])

    for cache in (first, second):
        assert plan((await cache.get_many("users", ["user-000001"]))["user-000001"]) == "gold"


async def test_readers_under_a_stream_of_changes_end_with_the_newest(worker: MakeWorker, database: AsyncEngine) -> None:
    workers = [await worker(), await worker()]
    stop = asyncio.Event()

    async def read(cache: ReferenceCache) -> None:
        while not stop.is_set():
            await cache.get_many("users", ["user-000002"])
            await asyncio.sleep(0)

    readers = [asyncio.create_task(read(cache)) for cache in workers for _ in range(3)]
    for version in range(15):
        async with database.begin() as connection:
            await connection.execute(text("UPDATE users SET plan = :plan WHERE user_id = 'user-000002'"), {"plan": f"v{version}"})
        for cache in workers:
            await cache.invalidate("users", ["user-000002"])
        for cache in workers:
            assert plan((await cache.get_many("users", ["user-000002"]))["user-000002"]) == f"v{version}"
    stop.set()
    await asyncio.gather(*readers)


async def test_without_redis_all_goes_on(worker: MakeWorker) -> None:
    (port,) = free_ports(1)
    cache = await worker(redis_url=f"redis://127.0.0.1:{port}/0", reference_redis_timeout_ms=50)
    started = time.perf_counter()
    for n in range(20):
        assert plan((await cache.get_many("users", [f"user-{n:06d}"]))[f"user-{n:06d}"]) is not None

    assert cache.counters.redis_errors <= 2
    assert time.perf_counter() - started < 5


async def test_a_database_that_goes_and_comes_back_is_noticed(worker: MakeWorker, postgres: LocalPostgres) -> None:
    cache = await worker(reference_timeout_ms=1000)
    await cache.get_many("users", ["user-000003"])
    postgres.stop()
    try:
        gone = await cache.get_many("users", ["user-000003", "user-000004"])
        assert plan(gone["user-000003"]) is not None
        assert not isinstance(gone["user-000004"], Known)
    finally:
        postgres.start()
    deadline = time.monotonic() + 15
    while not isinstance((await cache.get_many("users", ["user-000004"]))["user-000004"], Known):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)

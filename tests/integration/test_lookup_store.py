"""The store on a real Redis: the contract, and what only a real server can do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from app.lookups.connect import redis_client
from app.lookups.script import LookupStore, RedisStore
from app.settings import load_settings
from deploy.local.redis import LocalRedis
from tests.lookups.fakes import KEYS
from tests.lookups.store_contract import EMPTY, A, StoreContract, at, write


class TestRedisStore(StoreContract):
    @pytest.fixture
    async def client(self, redis: LocalRedis) -> AsyncIterator[Redis]:
        client = redis_client(load_settings(redis_url=redis.url), "test", 2.0, 4)
        await client.flushall()
        await client.script_flush()
        yield client
        await client.aclose()

    @pytest.fixture
    def store(self, client: Redis) -> RedisStore:
        return RedisStore(client)

    async def test_a_forgotten_script_is_an_error_and_prepare_mends_it(self, client: Redis, store: LookupStore) -> None:
        await store.prepare()
        await client.script_flush()
        with pytest.raises(NoScriptError):
            await write(store, EMPTY, at(1), 1, {A: b"1"})
        await store.prepare()

        assert await write(store, EMPTY, at(1), 1, {A: b"1"})

    async def test_every_answer_is_read_also_after_an_error(self, client: Redis, store: LookupStore) -> None:
        await client.rpush(A.decode(), "not a string")
        with pytest.raises(RedisError, match="WRONGTYPE"):
            await store.covers([KEYS.cover, A, KEYS.cover])

        assert await store.covers([KEYS.cover]) == [None]

    async def test_clients_have_a_name(self, client: Redis) -> None:
        await client.ping()

        assert "veltrix-test" in {entry["name"] for entry in await client.client_list()}

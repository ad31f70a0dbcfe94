"""The shared tier: the contract on the fake one and a real Redis, and its keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.enrichment.shared import RedisTier, key_prefix, pack, unpack
from deploy.local.redis import LocalRedis
from tests.enrichment.fakes import USERS, Clock, FakeShared
from tests.enrichment.shared_tier_contract import SharedTierContract


class TestFakeSharedTier(SharedTierContract):
    @pytest.fixture
    def tier(self) -> FakeShared:
        self.clock = Clock()
        return FakeShared(self.clock)

    async def pass_ms(self, milliseconds: int) -> None:
        self.clock.pass_s(milliseconds / 1000)


@pytest.mark.integration
class TestRedisTier(SharedTierContract):
    @pytest.fixture
    async def tier(self, redis: LocalRedis) -> AsyncIterator[RedisTier]:
        redis.flush()
        client = Redis.from_url(redis.url, retry=Retry(NoBackoff(), 0))
        yield RedisTier(client, 2.0)
        await client.aclose()

    async def pass_ms(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)

    async def test_a_forgotten_script_is_loaded_again(self, tier: RedisTier, redis: LocalRedis) -> None:
        await self.test_a_lease_given_up_leaves_the_row_as_it_was(tier)
        redis.flush()
        await tier._client.script_flush()

        await self.test_a_lease_given_up_leaves_the_row_as_it_was(tier)


@pytest.mark.integration
async def test_a_redis_that_says_nothing_costs_one_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        client = Redis(port=server.sockets[0].getsockname()[1], retry=Retry(NoBackoff(), 0))
        started = time.perf_counter()
        with pytest.raises(TimeoutError):
            await RedisTier(client, 0.05).read(["a"])
        await client.aclose()

        assert time.perf_counter() - started < 0.5


def test_a_held_row_carries_its_time() -> None:
    assert unpack(pack(1_700_000_000_000, b'{"a":1}')) == (1_700_000_000_000, b'{"a":1}')
    assert unpack(pack(5, b"")) == (5, b"")
    assert unpack(b"short") is None


def test_rows_of_another_declaration_have_other_keys() -> None:
    other = USERS.model_copy(update={"columns": ("plan",)})

    assert key_prefix("veltrix", USERS).startswith("veltrix:reference:{users}:")
    assert key_prefix("veltrix", USERS) != key_prefix("veltrix", other)

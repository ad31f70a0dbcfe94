"""Reads that come together share a round trip, and none of them can spoil it for the others."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError
from redis.exceptions import ConnectionError as RedisConnectionError

from app.lookups.connect import advice
from app.lookups.gathered import MOST_KEYS, GatheredReads


class FakeClient:
    """MGET that answers each key with itself, when ``answer`` is set; notes the keys of each call."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[tuple[bytes, ...]] = []
        self.failure = failure
        self.answer = asyncio.Event()
        self.answer.set()

    async def mget(self, *keys: bytes) -> list[bytes | None]:
        self.calls.append(keys)
        await self.answer.wait()
        if self.failure is not None:
            raise self.failure
        return list(keys)


def reads_of(client: FakeClient, gather_s: float = 0.005, timeout_s: float = 1.0) -> GatheredReads:
    return GatheredReads(cast("Redis", client), timeout_s, gather_s)


async def test_those_who_ask_within_the_time_share_one_call_that_names_each_key_once() -> None:
    client = FakeClient()
    reads = reads_of(client)

    answers = await asyncio.gather(reads.get([b"a", b"b"]), reads.get([b"b", b"c"]), reads.get([b"a"]))

    assert client.calls == [(b"a", b"b", b"c")]
    assert all(answer is not None and answer[b"b"] == b"b" for answer in answers)


async def test_who_asks_while_a_call_is_under_way_gets_a_later_one() -> None:
    client = FakeClient()
    client.answer.clear()
    reads = reads_of(client, gather_s=0)
    first = asyncio.create_task(reads.get([b"a"]))
    await asyncio.sleep(0.01)
    assert client.calls == [(b"a",)]

    second = asyncio.create_task(reads.get([b"a"]))
    await asyncio.sleep(0.01)
    client.answer.set()

    assert await first == await second == {b"a": b"a"}
    assert len(client.calls) == 2  # what was written in between must be seen


async def test_more_keys_than_one_call_takes_go_in_several() -> None:
    client = FakeClient()
    reads = reads_of(client)
    many = [b"%d" % number for number in range(MOST_KEYS)]

    first, second = await asyncio.gather(reads.get(many), reads.get([b"a"]))

    assert first is not None
    assert second == {b"a": b"a"}
    assert list(map(len, client.calls)) == [MOST_KEYS, 1]


async def test_a_caller_that_gives_up_does_not_take_the_answer_from_the_others() -> None:
    client = FakeClient()
    reads = reads_of(client)
    gone, stays = asyncio.create_task(reads.get([b"a"])), asyncio.create_task(reads.get([b"b"]))
    await asyncio.sleep(0)

    gone.cancel()

    assert await stays == {b"a": b"a", b"b": b"b"}


@pytest.mark.parametrize("failure", [RedisConnectionError("gone"), AuthenticationError("wrong"), OSError("reset")])
async def test_a_failure_is_no_answer_for_all_and_spares_redis_for_a_while(failure: Exception) -> None:
    client = FakeClient(failure)
    reads = reads_of(client)

    assert all(held is None for held in await asyncio.gather(reads.get([b"a"]), reads.get([b"b"])))
    assert await reads.get([b"c"]) is None
    assert len(client.calls) == 1


async def test_silence_is_a_failure() -> None:
    client = FakeClient()
    client.answer.clear()

    assert await reads_of(client, timeout_s=0.01).get([b"a"]) is None


async def test_a_mistake_of_ours_reaches_every_caller() -> None:
    reads = reads_of(FakeClient(ZeroDivisionError()))

    found = await asyncio.gather(reads.get([b"a"]), reads.get([b"b"]), return_exceptions=True)

    assert [type(each) for each in found] == [ZeroDivisionError, ZeroDivisionError]


def test_a_refused_login_a_missing_right_and_an_absent_redis_are_told_apart() -> None:
    assert "VELTRIX_REDIS_PASSWORD" in advice(AuthenticationError("invalid username-password pair"))
    assert "docs/runbooks/redis.md" in advice(NoPermissionError("no permissions to run 'mget'"))
    assert "VELTRIX_REDIS_URL" in advice(RedisConnectionError("Connection refused"))
    assert advice(TimeoutError()).startswith("TimeoutError; ")

"""Reading a lookup: Redis first, the own table where Redis cannot tell, an honest refusal otherwise."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from app.domain.routing import partition_of
from app.engine.api import LaneId, struct_view
from app.engine.status import EngineStatus, LaneStatus, Ledger
from app.lookups.api import InvalidLookupKey, LookupUnavailable, LookupView, UnknownLookup
from app.lookups.gathered import FIRST_PAUSE_S, LAST_PAUSE_S, Circuit
from app.lookups.keys import Cover, LaneKeys, pack_head, rebuild_token
from app.lookups.reader import RedisLookupReader
from app.settings import load_settings
from tests.lookups.fakes import AGENT

LANE = LaneId(AGENT, partition_of(b"42", 10))


class Profile(msgspec.Struct, array_like=True, frozen=True):
    events: int


VIEW = struct_view("user_profiles", b"p", Profile, lookup="users")
VIEWS = [LookupView.of(AGENT, VIEW, lambda profile: {"events": profile.events})]
KEYS = LaneKeys("veltrix", LANE, VIEWS)


class FakeEngine:
    """One lane's table, or none."""

    def __init__(self, rows: dict[bytes, bytes] | None) -> None:
        self._rows = rows

    def owns(self, lane: LaneId) -> bool:
        return self._rows is not None and lane == LANE

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None:
        if self._rows is None or lane != LANE:
            raise KeyError(lane)
        return self._rows.get(raw_key)

    def lanes(self) -> list[LaneStatus]:
        return [LaneStatus(LANE, "interactions", 0, 0, False, 1, 1, 1, 70, Ledger(), 0.0, 0.0, 1)] if self._rows is not None else []


class FakeClient:
    """MGET of a dictionary; raises when ``data`` is None."""

    def __init__(self, data: dict[bytes, bytes] | None) -> None:
        self.data = data
        self.calls = 0

    async def mget(self, *keys: bytes) -> list[bytes | None]:
        self.calls += 1
        if self.data is None:
            raise RedisConnectionError("down")
        return [self.data.get(key) for key in keys]


def profile(events: int) -> bytes:
    return VIEW.encode(Profile(events))


def redis_holding(events: int | None, cover: bytes | None = Cover(70, 1000).pack()) -> FakeClient:
    data = {} if cover is None else {KEYS.cover: cover}
    if events is not None:
        data[KEYS.of(b"pu:42") or b""] = pack_head(66, 12) + profile(events)
    return FakeClient(data)


def reader(client: FakeClient | None, rows: dict[bytes, bytes] | None) -> RedisLookupReader:
    settings = load_settings(redis_url="" if client is None else "redis://127.0.0.1:1/0")
    return RedisLookupReader(settings, cast("EngineStatus", FakeEngine(rows)), VIEWS, cast("Redis | None", client))


async def test_a_covered_value_comes_from_redis_with_its_stamps() -> None:
    answer = await reader(redis_holding(3), None).read("users", "u:42")

    assert answer is not None
    assert (answer.value, answer.raw, answer.source, answer.partition) == ({"events": 3}, profile(3), "redis", LANE.partition)
    assert (answer.changelog_offset, answer.source_offset, answer.covered_offset, answer.covered_at_ms) == (66, 12, 70, 1000)


async def test_a_key_that_covered_redis_lacks_is_unknown() -> None:
    assert await reader(redis_holding(None), None).read("users", "u:42") is None


async def test_a_key_that_redis_lacks_is_answered_by_the_table_here() -> None:
    answer = await reader(redis_holding(None), {b"pu:42": profile(9)}).read("users", "u:42")

    assert answer is not None
    assert (answer.value, answer.source, answer.covered_offset, answer.covered_at_ms) == ({"events": 9}, "table", 70, None)


@pytest.mark.parametrize("cover", [None, rebuild_token()])
async def test_a_value_in_a_redis_that_covers_nothing_is_not_trusted(cover: bytes | None) -> None:
    client = redis_holding(3, cover)
    answer = await reader(client, {b"pu:42": profile(9)}).read("users", "u:42")

    assert answer is not None
    assert answer.value == {"events": 9}
    assert await reader(client, {}).read("users", "u:42") is None
    with pytest.raises(LookupUnavailable) as refused:
        await reader(client, None).read("users", "u:42")
    assert (refused.value.reason, refused.value.partition) == ("not_covered", LANE.partition)


async def test_a_value_that_this_version_cannot_decode_is_no_answer() -> None:
    client = redis_holding(3)
    assert client.data is not None
    client.data[KEYS.of(b"pu:42") or b""] = pack_head(66, 12) + b"\xc1"

    answer = await reader(client, {b"pu:42": profile(9)}).read("users", "u:42")
    assert answer is not None
    assert answer.source == "table"
    with pytest.raises(LookupUnavailable):
        await reader(client, None).read("users", "u:42")


async def test_without_redis_the_table_answers_or_nobody() -> None:
    answer = await reader(FakeClient(None), {b"pu:42": profile(9)}).read("users", "u:42")
    assert answer is not None
    assert answer.value == {"events": 9}
    with pytest.raises(LookupUnavailable) as down:
        await reader(FakeClient(None), None).read("users", "u:42")
    with pytest.raises(LookupUnavailable) as absent:
        await reader(None, None).read("users", "u:42")

    assert (down.value.reason, absent.value.reason) == ("redis_down", "not_configured")


async def test_a_dead_redis_is_not_asked_in_every_call() -> None:
    client = FakeClient(None)
    reading = reader(client, {})
    for _ in range(20):
        assert await reading.read("users", "u:42") is None

    assert client.calls == 1


async def test_anonymous_users_are_found_by_their_own_key() -> None:
    with pytest.raises(LookupUnavailable) as refused:
        await reader(FakeClient(None), None).read("users", "a:x")

    assert refused.value.partition == partition_of(b"x", 10)


async def test_wrong_questions_are_named() -> None:
    with pytest.raises(UnknownLookup, match="'items'; there are: users"):
        await reader(None, {}).read("items", "u:1")
    for key in ("42", "u:", "", "x:1"):
        with pytest.raises(InvalidLookupKey):
            await reader(None, {}).read("users", key)


def test_a_view_without_a_lookup_serves_none() -> None:
    plain: Any = struct_view("seen_ids", b"s", Profile)
    with pytest.raises(ValueError, match="seen_ids"):
        LookupView.of(AGENT, plain, lambda value: value)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_circuit_pauses_longer_with_every_failure_and_lets_one_probe_through() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    pauses = []
    for _ in range(6):
        assert circuit.allows()
        assert circuit._closed_at <= clock.now or not circuit.allows()
        circuit.failed()
        start = clock.now
        while clock.now < circuit._closed_at:
            assert not circuit.allows()
            clock.now += 0.25
        pauses.append(clock.now - start)

    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE_S, LAST_PAUSE_S)


def test_the_circuit_forgets_failures_after_an_answer() -> None:
    clock = Clock()
    circuit = Circuit(clock)
    for _ in range(4):
        circuit.failed()
    circuit.answered()

    assert all(circuit.allows() for _ in range(3))

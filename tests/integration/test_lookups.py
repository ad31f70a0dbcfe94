"""Lookups against a real Redis and a real changelog: a lane without an engine, driven by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from app.domain.routing import partition_of
from app.engine.api import RESET_KEY, LaneId
from app.engine.status import EngineStatus
from app.lookups.api import LookupView
from app.lookups.connect import redis_client
from app.lookups.keys import LaneKeys, unpack_value
from app.lookups.reader import RedisLookupReader
from app.lookups.writer import LookupWriter, Pace, _cancel
from app.settings import Settings, load_settings
from app.topics import changelog_of
from deploy.local.redis import LocalRedis
from tests.integration.conftest import MakeTopics
from tests.lookups.fakes import FakeTable

AGENT = "process_interactions"
LANE = LaneId(AGENT, 2)
VIEWS = (LookupView(AGENT, "users", b"p", lambda raw: raw.decode()),)
PACE = Pace(cover_s=0.2, first_retry_s=0.05, last_retry_s=0.2)


class Lane:
    """A lane that writes its changelog to Kafka and its table into memory, and tells the writer."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer) -> None:
        self.settings = settings
        self.keys = LaneKeys(settings.app_id, LANE, VIEWS)
        self.table = FakeTable(LANE, changelog_of(settings.app_id, AGENT))
        self._producer = producer
        self.start()

    def start(self) -> None:
        self.writer = LookupWriter(self.settings, VIEWS, pace=PACE)

    async def unit(self, writes: dict[bytes, bytes | None], *, tell: bool = True) -> None:
        unit, stamp, previous = self.table.durable(writes)
        await self._send(unit, stamp)
        if tell:
            self.writer.unit_durable(LANE, unit, stamp, 1000 + stamp, previous)

    async def reset(self) -> None:
        self.table.reset()
        await self._send({RESET_KEY: b""}, self.table.changelog_offset())

    async def _send(self, records: dict[bytes, bytes | None], stamp: int) -> None:
        batch = self._producer.create_batch()
        for key, value in records.items():
            batch.append(key=key, value=value, timestamp=None)
        sent = await self._producer.send_batch(batch, self.table.changelog_topic, partition=LANE.partition)
        base = (await sent).offset
        assert base + len(records) - 1 == stamp, "the table in memory counts offsets as Kafka does"

    async def kill(self) -> None:
        """kill -9 of the process: nothing is flushed, the kernel closes its sockets."""
        tasks = [task for task in (*self.writer._tasks.values(), self.writer._pump) if task is not None]
        for task in tasks:
            await _cancel(task)
        await self.writer._store.aclose()

    @property
    def state(self) -> str:
        return self.writer.states()[LANE]

    async def settle(self) -> None:
        await until(lambda: self.state == "live" and self.writer.behind()[LANE] == 0)


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():  # noqa: ASYNC110  it asks about several things
            await asyncio.sleep(0.01)


async def in_redis(client: Redis, lane: Lane) -> dict[bytes, bytes]:
    """State key -> raw value of everything that lookups would serve."""
    base = lane.keys.prefixes[0][2]
    found = {}
    async for key in client.scan_iter(match=base + b"*"):
        held = cast("bytes", await client.get(key))
        found[b"p" + key[len(base) :]] = unpack_value(held)[2]
    return found


@pytest.fixture
async def lane(topics: MakeTopics, own_redis: LocalRedis) -> AsyncIterator[Lane]:
    settings = topics(redis_url=own_redis.url, redis_timeout_ms=200)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.kafka_bootstrap, acks="all", enable_idempotence=True, max_batch_size=900_000
    )
    await producer.start()
    lane = Lane(settings, producer)
    yield lane
    await lane.writer.aclose()
    await producer.stop()


@pytest.fixture
async def client(lane: Lane) -> AsyncIterator[Redis]:
    client = redis_client(lane.settings, "test", 2.0, 2)
    yield client
    await client.aclose()


async def test_durable_units_are_served_with_their_stamps(lane: Lane, client: Redis) -> None:
    lane.writer.lane_started(lane.table)
    await lane.settle()  # live: what is caught up from the changelog has no source offset
    await lane.unit({b"pu:1": b"a", b"su:1": b"seen"})
    await lane.unit({b"pu:1": b"b"})
    await lane.settle()
    held = await client.get(lane.keys.of(b"pu:1") or b"")

    assert unpack_value(cast("bytes", held)) == (4, 1004, b"b")
    assert await in_redis(client, lane) == {b"pu:1": b"b"}


async def test_redis_stopped_and_started_empty_in_mid_stream_is_rebuilt(lane: Lane, client: Redis, own_redis: LocalRedis) -> None:
    lane.writer.lane_started(lane.table)
    for number in range(20):
        await lane.unit({b"pu:%d" % n: b"%d" % number for n in range(40 * number, 40 * number + 60)})
    await lane.settle()
    own_redis.stop()
    for number in range(20):
        await lane.unit({b"pu:%d" % number: b"while down", b"pu:%d" % (100 + number): None})
    await until(lambda: lane.state == "down")
    own_redis.start()
    await lane.unit({b"pu:last": b"after"})
    await lane.settle()

    assert await in_redis(client, lane) == lane.table.lookups()
    assert lane.writer.counters.rebuilds == 2


async def test_a_redis_that_hangs_is_caught_up_from_the_changelog(lane: Lane, client: Redis) -> None:
    lane.writer.lane_started(lane.table)
    await lane.unit({b"pu:%d" % n: b"first" for n in range(3000)})
    await lane.settle()
    before = time.perf_counter()
    pauser = redis_client(lane.settings, "pauser", 2.0, 1)
    await pauser.client_pause(2500)
    for number in range(50):
        await lane.unit({b"pu:%d" % (number * 7): b"%d" % number, b"pu:%d" % (number * 11 + 1): None})
    assert time.perf_counter() - before < 2.0, "the stream did not wait"
    await pauser.aclose()
    await until(lambda: lane.state != "live")
    await lane.settle()

    assert await in_redis(client, lane) == lane.table.lookups()
    assert lane.writer.counters.rebuilds == 1
    assert lane.writer.counters.catch_ups >= 1


async def test_a_process_killed_between_table_and_redis_leaves_no_stale_key(lane: Lane, client: Redis) -> None:
    lane.writer.lane_started(lane.table)
    await lane.unit({b"pu:1": b"a", b"pu:2": b"b", b"pu:3": b"c"})
    await lane.settle()
    await lane.kill()
    await lane.unit({b"pu:1": b"newer", b"pu:2": None}, tell=False)
    assert (await in_redis(client, lane))[b"pu:1"] == b"a"
    lane.start()
    lane.writer.lane_started(lane.table)
    await lane.settle()

    assert await in_redis(client, lane) == {b"pu:1": b"newer", b"pu:3": b"c"}
    assert (lane.writer.counters.rebuilds, lane.writer.counters.catch_ups) == (0, 1)


async def test_a_reset_in_the_changelog_empties_lookups(lane: Lane, client: Redis) -> None:
    lane.writer.lane_started(lane.table)
    await lane.unit({b"pu:1": b"a"})
    await lane.settle()
    await lane.kill()
    await lane.reset()
    await lane.unit({b"pu:2": b"b"}, tell=False)
    lane.start()
    lane.writer.lane_started(lane.table)
    await lane.settle()

    assert await in_redis(client, lane) == {b"pu:2": b"b"}


class NoEngine:
    """A worker that owns nothing."""

    def owns(self, lane: LaneId) -> bool:
        return False

    def read(self, lane: LaneId, raw_key: bytes) -> Any:
        raise KeyError(lane)


async def test_a_lookup_is_read_from_redis_in_less_than_two_milliseconds(lane: Lane, client: Redis) -> None:
    here = [f"u{n}" for n in range(100) if partition_of(b"u%d" % n, lane.settings.partitions) == LANE.partition]
    user, unknown = here[:2]
    lane.writer.lane_started(lane.table)
    await lane.unit({f"pu:{user}".encode(): b"profile"})
    await lane.settle()
    alone = lane.settings.model_copy(update={"redis_gather_ms": 0})
    reader = RedisLookupReader(alone, cast("EngineStatus", NoEngine()), VIEWS)
    seconds = []
    for _ in range(101):
        started = time.perf_counter()
        answer = await reader.read("users", f"u:{user}")
        seconds.append(time.perf_counter() - started)
    nobody = await reader.read("users", f"u:{unknown}")
    await reader.aclose()

    assert nobody is None
    assert answer is not None
    assert (answer.value, answer.source, answer.changelog_offset) == ("profile", "redis", 1)
    assert sorted(seconds)[50] < 0.002


async def test_a_password_and_a_user_are_sent(own_redis: LocalRedis) -> None:
    admin = redis_client(load_settings(redis_url=own_redis.url), "admin", 2.0, 1)
    await admin.acl_setuser("veltrix", enabled=True, passwords=["+s3cret"], categories=["+@all"], keys=["*"])
    login = load_settings(redis_url=own_redis.url, redis_username="veltrix", redis_password="s3cret")
    named = redis_client(login, "x", 2.0, 1)

    assert await named.acl_whoami() == "veltrix"
    await named.aclose()
    await admin.aclose()

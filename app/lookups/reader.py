"""Reading one hot lookup: from Redis, else from this worker's own table."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterable
from typing import Final, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.domain.routing import partition_of
from app.engine.api import LaneId
from app.engine.status import EngineStatus
from app.lookups.api import InvalidLookupKey, LookupAnswer, LookupUnavailable, LookupView, Reason, UnknownLookup
from app.lookups.connect import redis_client
from app.lookups.keys import Cover, LaneKeys, unpack_cover, unpack_value
from app.settings import Settings

CONNECTIONS: Final = 32
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 5.0
IDENTITY_PREFIXES: Final = ("u:", "a:")


class Circuit:
    """After a failure Redis is not asked for a while, so that an outage does not cost its timeout in every call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Whether to ask. When a pause is over one caller probes; the others wait for its result."""
        now = self._clock()
        if now < self._closed_at:
            return False
        if self._pause_s > FIRST_PAUSE_S:
            self._closed_at = now + FIRST_PAUSE_S
        return True

    def failed(self) -> None:
        """It did not answer: leave it alone, longer each time."""
        self._closed_at = self._clock() + self._pause_s
        self._pause_s = min(LAST_PAUSE_S, self._pause_s * 2)

    def answered(self) -> None:
        """It works."""
        self._pause_s, self._closed_at = FIRST_PAUSE_S, 0.0


class RedisLookupReader:
    """Implements ``LookupReader``.

    Args:
        settings: Redis, application id and number of partitions.
        status: the engine, for lanes of this worker.
        views: what is served, and how a raw value becomes public.
        client: Redis, for tests.
    """

    def __init__(self, settings: Settings, status: EngineStatus, views: Iterable[LookupView], client: Redis | None = None) -> None:
        self._app_id = settings.app_id
        self._partitions = settings.partitions
        self._status = status
        self._views = {view.resource: view for view in views}
        self._keys: dict[LaneId, LaneKeys] = {}
        self._timeout_s = settings.redis_timeout_ms / 1000
        self._client = client
        if client is None and settings.redis_url:
            self._client = redis_client(settings, "lookup-reader", self._timeout_s, CONNECTIONS)
        self.circuit = Circuit()

    async def read(self, resource: str, key: str) -> LookupAnswer | None:
        """The value of ``key`` (``u:42`` or ``a:x``), None when there is no such key.

        A key that Redis does not have is looked for in the table if the partition is here, so a lane that is
        catching up never makes a known user unknown.

        Raises:
            UnknownLookup, InvalidLookupKey: the question is wrong.
            LookupUnavailable: neither Redis nor a table here can tell.
        """
        view = self._views.get(resource)
        if view is None:
            raise UnknownLookup(resource, sorted(self._views))
        if len(key) < 3 or not key.startswith(IDENTITY_PREFIXES):
            raise InvalidLookupKey(key)
        lane = LaneId(view.agent, partition_of(key[2:].encode(errors="replace"), self._partitions))
        raw_key = view.prefix + key.encode(errors="replace")
        reason: Reason = "not_configured"
        if self._client is not None:
            reason = "redis_down"
            answered = await self._ask_redis(self._client, lane, raw_key)
            if answered is not None:
                held, cover = answered
                answer = None if held is None or cover is None else _from_redis(view, key, lane, held, cover)
                if answer is not None:
                    return answer
                if cover is not None and held is None and not self._status.owns(lane):
                    return None
                reason = "not_covered"
        return self._from_table(view, key, lane, raw_key, reason)

    async def aclose(self) -> None:
        """Close Redis."""
        if self._client is not None:
            await self._client.aclose()

    async def _ask_redis(self, client: Redis, lane: LaneId, raw_key: bytes) -> tuple[bytes | None, Cover | None] | None:
        """Value and cover of one moment; None when Redis does not answer."""
        if not self.circuit.allows():
            return None
        keys = self._keys.get(lane)
        if keys is None:
            keys = self._keys[lane] = LaneKeys(self._app_id, lane, self._views.values())
        redis_key = keys.of(raw_key)
        assert redis_key is not None, "the view of a lookup has its prefix"
        try:
            async with asyncio.timeout(self._timeout_s):
                held, cover = cast("list[bytes | None]", await client.mget(redis_key, keys.cover))
        except (RedisError, OSError):
            self.circuit.failed()
            return None
        self.circuit.answered()
        return held, unpack_cover(cover)

    def _from_table(self, view: LookupView, key: str, lane: LaneId, raw_key: bytes, reason: Reason) -> LookupAnswer | None:
        try:
            raw = self._status.read(lane, raw_key)
        except KeyError:
            raise LookupUnavailable(reason, lane.partition) from None
        if raw is None:
            return None
        offset = next((status.changelog_offset for status in self._status.lanes() if status.lane == lane), -1)
        return LookupAnswer(
            resource=view.resource,
            key=key,
            value=view.decode(raw),
            raw=raw,
            source="table",
            partition=lane.partition,
            changelog_offset=offset,
            source_offset=-1,
            covered_offset=offset,
            covered_at_ms=None,
        )


def _from_redis(view: LookupView, key: str, lane: LaneId, held: bytes, cover: Cover) -> LookupAnswer | None:
    """None when the entry cannot be read: written by another version, which the table may still answer."""
    try:
        stamp, source_offset, raw = unpack_value(held)
        value = view.decode(raw)
    except (struct.error, msgspec.MsgspecError):
        return None
    return LookupAnswer(
        resource=view.resource,
        key=key,
        value=value,
        raw=raw,
        source="redis",
        partition=lane.partition,
        changelog_offset=stamp,
        source_offset=source_offset,
        covered_offset=max(stamp, cover.position),
        covered_at_ms=cover.written_ms,
    )

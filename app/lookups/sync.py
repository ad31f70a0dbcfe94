"""Bringing Redis up to a lane's table: catch up from the changelog, or rebuild from the table.

Both run beside the live stream. The lane queues new units from the moment on whose position is the goal, so when the
goal is reached the queue continues exactly there; if the queue overflowed meanwhile, there is a next, shorter round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from app.lookups.changelog import CannotReplay, Changelog, Chunk
from app.lookups.keys import Cover, pack_head, rebuild_token, unpack_cover
from app.lookups.lane import FollowedLane, LookupCounters, plan
from app.lookups.script import MAX_KEYS_PER_CALL, LookupStore
from app.lookups.throttle import Throttle

log = structlog.get_logger(__name__)

#: Compaction may drop tombstones 24 h after they were written (Kafka's default): an older cover may have missed
#: deletes that the changelog no longer tells.
MAX_COVER_AGE_MS: Final = 12 * 3_600_000
UNKNOWN_OFFSET: Final = -1


class CoverMoved(Exception):
    """Redis holds another cover than this writer left: it lost data, or another owner of the lane writes."""


class Synchroniser:
    """Makes one lane after the other live."""

    def __init__(
        self, store: LookupStore, changelog: Changelog, counters: LookupCounters, now_ms: Callable[[], int], throttle: Throttle
    ) -> None:
        self._store = store
        self._throttle = throttle
        self._changelog = changelog
        self._counters = counters
        self._now_ms = now_ms

    async def synchronise(self, lane: FollowedLane) -> None:
        """Returns with the lane live.

        Raises:
            CoverMoved: begin again.
            RedisError, KafkaError, OSError: Redis or Kafka does not answer; try again later.
        """
        await self._store.prepare()
        (raw,) = await self._store.covers([lane.keys.cover])
        cover = unpack_cover(raw)
        if raw is None or cover is None or not self._is_usable(cover, lane):
            await self._rebuild(lane)
        else:
            lane.written(raw, cover.position)
        while True:
            lane.begin_queueing()
            try:
                await self._catch_up(lane, lane.tail)
            except CannotReplay:
                await self._rebuild(lane)
                continue
            if lane.queueing:  # no await since it was last seen complete
                lane.state = "live"
                return

    def _is_usable(self, cover: Cover, lane: FollowedLane) -> bool:
        if cover.position >= lane.position:
            return cover.position == lane.position  # beyond the table: of a changelog that was there before
        return self._now_ms() - cover.written_ms <= MAX_COVER_AGE_MS

    async def _catch_up(self, lane: FollowedLane, goal: int) -> None:
        if lane.covered >= goal:
            return
        lane.state = "catching_up"
        self._counters.catch_ups += 1

        async def on_chunk(chunk: Chunk, position: int) -> None:
            started = time.perf_counter()
            of = lane.keys.of
            writes = {key: value for raw, value in chunk.items() if (key := of(raw)) is not None}
            await self._write(lane, writes, position, Cover(position, self._now_ms()).pack(), started)

        await self._changelog.replay(lane.table.changelog_topic, lane.table.lane.partition, lane.covered, goal, on_chunk)

    async def _rebuild(self, lane: FollowedLane) -> None:
        """Everything anew under a token that fences other writers; values may be newer than their stamp, never older."""
        lane.stop_queueing()
        lane.state = "rebuilding"
        self._counters.rebuilds += 1
        token = rebuild_token()
        await self._store.take_over(lane.keys.cover, token, lane.keys.pattern)
        lane.written(token, UNKNOWN_OFFSET)
        position, lane.rebuilt, began = lane.table.changelog_offset(), 0, time.monotonic()
        log.info("lookups_rebuilding", lane=str(lane.table.lane), keys_at_most=lane.table.estimated_keys())
        for prefix, length, base in lane.keys.prefixes:
            started = time.perf_counter()
            after = b""
            while page := lane.table.scan(prefix, after, MAX_KEYS_PER_CALL):
                after = page[-1][0]
                await self._write(lane, {base + key[length:]: value for key, value in page}, position, token, started)
                lane.rebuilt += len(page)
                await self._throttle.spend(len(page))
                started = time.perf_counter()
        await self._write(lane, {}, position, Cover(position, self._now_ms()).pack(), time.perf_counter())
        log.info("lookups_rebuilt", lane=str(lane.table.lane), keys=lane.rebuilt, seconds=round(time.monotonic() - began, 1))

    async def _write(
        self, lane: FollowedLane, writes: dict[bytes, bytes | None], position: int, new: bytes, started: float
    ) -> None:
        calls = plan(lane.keys.cover, lane.cover, new, pack_head(position, UNKNOWN_OFFSET), writes)
        busy_s = time.perf_counter() - started
        if not all(await self._store.apply(calls)):
            raise CoverMoved
        self._counters.keys += len(writes)
        lane.written(new, position)
        await asyncio.sleep(busy_s)  # at most half of the event loop: the stream comes first

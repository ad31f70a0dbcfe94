"""Write-through of hot lookups: follows every durable unit, never delays one.

Live lanes share one flush task: whatever became durable while a round trip was under way goes out in the next one,
newest value per key. A lane whose position in Redis is not certain any more drops its queue and gets a task's help
(``sync``) until it is certain again. A live lane without traffic is written too, every two seconds with nothing but
its cover: that notices a Redis that restarted empty, and dates the copy for its readers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
from redis.exceptions import RedisError

from app.engine.api import LaneId
from app.engine.status import LaneTable
from app.lookups.api import LookupView
from app.lookups.changelog import Changelog, KafkaChangelog
from app.lookups.connect import advice, redis_client
from app.lookups.keys import LaneKeys
from app.lookups.lane import FollowedLane, LaneState, LookupCounters, flush_calls
from app.lookups.script import MAX_KEYS_PER_SEND, LookupStore, RedisStore
from app.lookups.sync import CoverMoved, Synchroniser
from app.lookups.throttle import Throttle
from app.settings import Settings
from app.spans import LaterCall

log = structlog.get_logger(__name__)

WRITE_TIMEOUT_S: Final = 2.0
CANCEL_AGAIN_S: Final = 0.5
#: Lanes that catch up or rebuild at one time: each holds a consumer and a chunk of records.
SYNCHRONISING_LANES: Final = 2


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the writer acts, in seconds."""

    flush_s: float = 0.04
    """Units that become durable within this time share a round trip: with 0.01 a worker at 1,000 events/s took 46 % of a core, now 40 %"""
    cover_s: float = 2.0
    """A live lane without traffic is verified this often"""
    first_retry_s: float = 0.1
    last_retry_s: float = 5.0


class LookupWriter:
    """Implements ``DurableListener``. One per process, on one event loop.

    Args:
        settings: application id, queue size, Redis and Kafka.
        views: what is served; keys of other views are not followed.
        store, changelog, now_ms, pace: Redis, Kafka and time, for tests.
    """

    def __init__(
        self,
        settings: Settings,
        views: Iterable[LookupView],
        store: LookupStore | None = None,
        changelog: Changelog | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        pace: Pace = Pace(),
    ) -> None:
        self.counters = LookupCounters()
        self._app_id = settings.app_id
        self._views = tuple(views)
        self._max_units = settings.redis_queue_units
        self._stop_timeout_s = settings.redis_timeout_ms / 1000
        self._store = store or RedisStore(redis_client(settings, "lookup-writer", WRITE_TIMEOUT_S, SYNCHRONISING_LANES + 2))
        throttle = Throttle(settings.redis_rebuild_keys_per_s)
        self._sync = Synchroniser(self._store, changelog or KafkaChangelog(settings), self.counters, now_ms, throttle)
        self._now_ms = now_ms
        self._pace = pace
        self._lanes: dict[LaneId, FollowedLane] = {}
        self._tasks: dict[LaneId, asyncio.Task[None]] = {}
        self._later = LaterCall()
        self._wake = asyncio.Event()
        self._flushing = asyncio.Lock()
        self._synchronising = asyncio.Semaphore(SYNCHRONISING_LANES)
        self._pump: asyncio.Task[None] | None = None

    def states(self) -> dict[LaneId, LaneState]:
        """State of each followed lane."""
        return {lane_id: lane.state for lane_id, lane in self._lanes.items()}

    def behind(self) -> dict[LaneId, int]:
        """Changelog records per lane that Redis does not cover yet."""
        return {lane_id: lane.behind for lane_id, lane in self._lanes.items()}

    def rebuilding(self) -> dict[LaneId, tuple[int, int]]:
        """Keys written and about how many there are at most, of each lane whose lookups are filled again from its table."""
        return {
            lane_id: (lane.rebuilt, lane.table.estimated_keys())
            for lane_id, lane in self._lanes.items()
            if lane.state == "rebuilding"
        }

    # -- DurableListener --------------------------------------------------------------------------

    def lane_started(self, table: LaneTable) -> None:
        """Follow a lane that is assigned and restored. Its agent may have no lookups: then it is left alone."""
        keys = LaneKeys(self._app_id, table.lane, self._views)
        if not keys.prefixes or table.lane in self._lanes:
            return
        lane = self._lanes[table.lane] = FollowedLane(table, keys, self._max_units)
        loop = asyncio.get_running_loop()
        self._tasks[table.lane] = loop.create_task(self._follow(lane), name=f"lookups-{table.lane}")
        if self._pump is None:
            self._pump = loop.create_task(self._flush_forever(), name="lookups-flush")

    def unit_durable(
        self, lane: LaneId, writes: Mapping[bytes, bytes | None], stamp: int, source_offset: int, previous: int
    ) -> None:
        """On the hot path: a dictionary update, nothing else."""
        followed = self._lanes.get(lane)
        if followed is None:
            return
        loss = followed.offer(writes, stamp, source_offset, previous)
        if loss is not None:
            self._lose(followed, loss)
        elif followed.state == "live":
            self._later.note()
            self._wake.set()

    async def lane_stopped(self, lane: LaneId) -> None:
        """Write what waits, within ``redis_timeout_ms``; the next owner catches up on the rest."""
        followed, task = self._lanes.get(lane), self._tasks.pop(lane, None)
        if followed is None or task is None:
            return
        if followed.state == "live":
            try:
                async with asyncio.timeout(self._stop_timeout_s):
                    await self._flush([followed])
            except TimeoutError:
                self.counters.failures += 1
        self._lanes.pop(lane, None)
        await _cancel(task)

    async def aclose(self) -> None:
        """Stop following, close Redis."""
        for lane in list(self._lanes):
            await self.lane_stopped(lane)
        if self._pump is not None:
            await _cancel(self._pump)
            self._pump = None
        await self._store.aclose()

    # -- live lanes -------------------------------------------------------------------------------

    async def _flush_forever(self) -> None:
        next_covers = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._pace.cover_s):
                    await self._wake.wait()
            except TimeoutError:
                pass  # no traffic: the covers are due
            self._wake.clear()
            live = [lane for lane in self._lanes.values() if lane.state == "live"]
            if loop.time() < next_covers:
                live = [lane for lane in live if lane.is_dirty]
            else:
                next_covers = loop.time() + self._pace.cover_s
            try:
                await self._flush(live)
            except Exception:  # a bug must cost freshness, not the lookups of all lanes for good
                log.exception("lookups_not_written")
                self._failed(live, None)
            await asyncio.sleep(self._pace.flush_s)

    async def _flush(self, lanes: list[FollowedLane]) -> None:
        """One round trip for all of ``lanes``. Never raises but on cancellation: a lane that failed is lost."""
        async with self._flushing:
            for group in _groups([lane for lane in lanes if lane.state == "live"]):
                await self._flush_group(group)

    async def _flush_group(self, lanes: list[FollowedLane]) -> None:
        now_ms = self._now_ms()
        sent = []
        calls = []
        for lane in lanes:
            taken = lane.take()
            lane_calls, cover = flush_calls(lane, taken, now_ms)
            sent.append((lane, lane.epoch, taken, cover, len(lane_calls)))
            calls += lane_calls
        try:
            with self._later.span("redis", "EVALSHA", sum(len(taken.writes) for _, _, taken, _, _ in sent)):
                applied = iter(await self._store.apply(calls))
        except (RedisError, OSError) as exc:
            self._failed(lanes, exc)
            return
        except asyncio.CancelledError:
            for lane in lanes:
                lane.lose()  # whether it was written is not known
            raise
        for lane, epoch, taken, cover, count in sent:
            answers = [next(applied) for _ in range(count)]
            if lane.epoch != epoch:
                continue
            if all(answers):
                lane.written(cover, taken.stamp)
                self.counters.units += taken.units
                self.counters.keys += len(taken.writes)
            else:
                self._lose(lane, "gap")

    # -- lanes that are not live ------------------------------------------------------------------

    async def _follow(self, lane: FollowedLane) -> None:
        """Make the lane live, again and again."""
        retry_s = self._pace.first_retry_s
        while True:
            lane.lost.clear()
            try:
                async with self._synchronising:
                    await self._sync.synchronise(lane)
            except CoverMoved:
                self._lose(lane, "gap")
            except (RedisError, OSError) as exc:
                self._failed([lane], exc)
            except Exception as exc:
                # Kafka's errors and whatever a bug may raise: lookups fall behind and say so, the stream goes on.
                log.warning("lookups_cannot_catch_up_yet", lane=str(lane.table.lane), error=repr(exc), exc_info=True)
                self.counters.failures += 1
                lane.lose()
            else:
                retry_s = self._pace.first_retry_s
                self._wake.set()
                await lane.lost.wait()
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))  # noqa: S311  lanes must not come back in step
            retry_s = min(self._pace.last_retry_s, retry_s * 2)

    def _lose(self, lane: FollowedLane, loss: str) -> None:
        if loss == "overflow":
            self.counters.overflows += 1
        else:
            self.counters.gaps += 1
        if lane.state == "live":
            log.info("lookups_catch_up", lane=str(lane.table.lane), reason=loss)
            lane.lose()
        else:
            lane.stop_queueing()  # its task is at work: it sees this and goes another round

    def _failed(self, lanes: list[FollowedLane], exc: BaseException | None) -> None:
        self.counters.failures += 1
        if exc is not None and all(lane.state != "down" for lane in self._lanes.values()):
            log.warning("lookups_cannot_reach_redis", error=_said(exc))  # once an outage; the stream goes on
        for lane in lanes:
            lane.lose("down")


def _said(exc: BaseException) -> str:
    """Redis, or Kafka during a catch-up."""
    return advice(exc) if isinstance(exc, (RedisError, OSError)) else repr(exc)


def _groups(lanes: list[FollowedLane]) -> Iterable[list[FollowedLane]]:
    """Lanes that share a round trip: many small ones, or one large one."""
    group: list[FollowedLane] = []
    keys = 0
    for lane in lanes:
        if group and keys + len(lane.pending) > MAX_KEYS_PER_SEND:
            yield group
            group, keys = [], 0
        group.append(lane)
        keys += len(lane.pending)
    if group:
        yield group


async def _cancel(task: asyncio.Task[None]) -> None:
    """Until it has ended: a cancellation that meets a time limit inside a client library may be taken for the limit's."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)

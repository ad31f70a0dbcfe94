"""The database and Redis behind what bounds their use. What goes through here never raises because a service is down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

import structlog
from redis.exceptions import RedisError

from app.enrichment.api import ReferenceCounters, Rows, StoreUnavailable, Trouble
from app.enrichment.declaration import ReferenceTable
from app.enrichment.limits import Breaker, Budget
from app.enrichment.shared import SharedTier

log = structlog.get_logger(__name__)

#: Calls of Redis at one time. Its client's pool must hold one connection more, for the probe: a pool that is used up raises.
REDIS_CALLS: Final = 8

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]


class ReferenceStore(Protocol):
    """What the cache needs of a database."""

    async def fetch(self, table: ReferenceTable, keys: Sequence[str]) -> Rows:
        """Rows of the keys that exist, with exactly the declared columns in their order. One query, in bounded time.

        Raises:
            StoreUnavailable: no answer.
        """
        ...

    async def aclose(self) -> None: ...


class DatabaseGate:
    """Queries within a load budget, at most ``concurrency`` at one time, none while the breaker is open.

    Args:
        wait_ms: longest wait for the budget, and again for a free place.
    """

    def __init__(
        self,
        store: ReferenceStore,
        breaker: Breaker,
        budget: Budget,
        counters: ReferenceCounters,
        *,
        concurrency: int,
        wait_ms: int,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.breaker = breaker
        self._store = store
        self._budget = budget
        self._counters = counters
        self._places = asyncio.Semaphore(concurrency)
        self._wait_ms = wait_ms
        self._sleep = sleep

    async def fetch(self, table: ReferenceTable, keys: Sequence[str], *, may_wait: bool) -> Rows | Trouble:
        """Rows of the keys that exist, or why nobody asked or answered. ``may_wait`` False: now or not at all."""
        if not await self._enter(may_wait):
            self._counters.shed += len(keys)
            return "over_budget"
        try:
            return await self._ask(table, keys)
        finally:
            self._places.release()

    async def aclose(self) -> None:
        """Close the database."""
        await self._store.aclose()

    async def _enter(self, may_wait: bool) -> bool:
        if not may_wait and self._places.locked():
            return False
        wait_ms = self._budget.reserve(self._wait_ms if may_wait else 0)
        if wait_ms is None:
            return False
        if wait_ms:
            await self._sleep(wait_ms / 1000)
        try:
            async with asyncio.timeout(self._wait_ms / 1000):
                await self._places.acquire()
        except TimeoutError:
            return False
        return True

    async def _ask(self, table: ReferenceTable, keys: Sequence[str]) -> Rows | Trouble:
        if not self.breaker.allows():  # it opened while this query waited
            return "breaker_open"
        self._counters.queries += 1
        try:
            rows = await self._store.fetch(table, keys)
        except StoreUnavailable as exc:
            if self.breaker.is_closed:
                log.warning("reference_database_does_not_answer", table=table.name, error=str(exc))
            self._counters.errors += 1
            self.breaker.failed()
            return "database_down"
        self.breaker.answered()
        return rows


class SharedGate:
    """Redis while its breaker is closed. Probes run behind everybody's back: an outage costs a caller one timeout at most.

    Args:
        tier: None: there is no Redis.
    """

    def __init__(self, tier: SharedTier | None, breaker: Breaker, counters: ReferenceCounters) -> None:
        self.breaker = breaker
        self._tier = tier
        self._counters = counters
        self._places = asyncio.Semaphore(REDIS_CALLS)
        self._probe: asyncio.Task[None] | None = None

    async def call(self, operation: Callable[[SharedTier], Awaitable[T]]) -> T | None:
        """What ``operation`` gives; None when Redis is not asked or does not answer, which is counted."""
        if self._tier is None:
            return None
        if not self.breaker.is_closed:
            self._probe_if_due(self._tier)
            return None
        async with self._places:
            return await self._ask(self._tier, operation)

    async def aclose(self) -> None:
        """End the probe."""
        if self._probe is not None:
            self._probe.cancel()
            await asyncio.wait([self._probe])

    async def _ask(self, tier: SharedTier, operation: Callable[[SharedTier], Awaitable[T]]) -> T | None:
        if not self.breaker.is_closed:  # it opened while this call waited, and the wait was all it cost
            return None
        try:
            # A success is not reported: a call that began before an outage must not end it.
            return await operation(tier)
        except (RedisError, OSError) as exc:
            self._failed(exc)
            return None

    def _probe_if_due(self, tier: SharedTier) -> None:
        if (self._probe is None or self._probe.done()) and self.breaker.allows():
            self._probe = asyncio.get_running_loop().create_task(self._try(tier), name="enrichment-redis-probe")

    async def _try(self, tier: SharedTier) -> None:
        try:
            await tier.ping()
        except (RedisError, OSError) as exc:
            self._failed(exc)
        else:
            self.breaker.answered()

    def _failed(self, exc: BaseException) -> None:
        if self.breaker.is_closed:
            log.warning("reference_redis_does_not_answer", error=repr(exc))
        self._counters.redis_errors += 1
        self.breaker.failed()

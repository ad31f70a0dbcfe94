"""Getting what the process cache lacks: Redis, then the database for what Redis lacks, one worker per row.

A worker that finds a row being fetched elsewhere waits for it a moment and then goes on by itself: a lease saves queries,
nobody depends on it. Without the lease what it fetched is not written to Redis (see ``shared``).
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from app.enrichment.api import ReferenceCounters, Trouble
from app.enrichment.entries import Entry, Found, TableCache
from app.enrichment.gates import DatabaseGate, SharedGate, Sleep
from app.enrichment.shared import Write, pack, unpack

#: The holder of a lease usually needs a few ms; after five looks it is taken for dead.
LEASE_POLLS: Final = 5
LEASE_POLL_S: Final = 0.03


class Loading:
    """What one load has brought so far."""

    __slots__ = ("fallback", "found", "trouble")

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}
        self.fallback: dict[str, Entry] = {}
        """Too old to be given, unless the database is away"""
        self.trouble: dict[str, Trouble] = {}


class Loader:
    """One per process.

    Args:
        lease_ms: a lease ends by itself after this: longer than a query takes.
        now_ms: wall clock (epoch ms), shared with other workers through what they write.
    """

    def __init__(
        self,
        database: DatabaseGate,
        shared: SharedGate,
        counters: ReferenceCounters,
        *,
        lease_ms: int,
        now_ms: Callable[[], int],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._database = database
        self._shared = shared
        self._counters = counters
        self._lease_ms = lease_ms
        self._now_ms = now_ms
        self._sleep = sleep
        self._worker = os.urandom(8)
        self._numbers = itertools.count()

    async def load(self, cache: TableCache, keys: list[str], *, is_refresh: bool) -> Loading:
        """Every key is found or in trouble; a refresh may leave keys out: those that another worker refreshes."""
        loading = Loading()
        rest = await self._from_redis(cache, keys, loading, fresh_only=is_refresh)
        if not rest:
            return loading
        if not self._database.breaker.is_due:
            loading.trouble = dict.fromkeys(rest, "breaker_open")
            return loading
        token = b"%b-%d" % (self._worker, next(self._numbers))
        won = await self._shared.call(lambda tier: tier.lease([cache.prefix + key for key in rest], token, self._lease_ms))
        if won is None:
            await self._from_database(cache, rest, loading, None, may_wait=not is_refresh)
            return loading
        ours = [key for key, is_won in zip(rest, won, strict=True) if is_won]
        others = [key for key, is_won in zip(rest, won, strict=True) if not is_won]
        if ours:
            await self._from_database(cache, ours, loading, token, may_wait=not is_refresh)
        if others and not is_refresh:
            await self._from_others(cache, others, loading)
        return loading

    async def _from_redis(self, cache: TableCache, keys: list[str], loading: Loading, *, fresh_only: bool) -> list[str]:
        """Keys that Redis could not answer."""
        held = await self._shared.call(lambda tier: tier.read([cache.prefix + key for key in keys]))
        if held is None:
            return keys
        now_ms = self._now_ms()
        for key, packed in zip(keys, held, strict=True):
            entry = None if packed is None else _entry(cache, key, packed)
            if entry is None or entry.answer.as_of_ms < cache.distrust_before_ms:
                continue
            if now_ms < (entry.fresh_until_ms if fresh_only else entry.stale_until_ms):
                loading.found[key] = Found(entry, "redis")
            else:
                loading.fallback[key] = entry
        rest = [key for key in keys if key not in loading.found]
        self._counters.redis_hits += len(keys) - len(rest)
        return rest

    async def _from_others(self, cache: TableCache, keys: list[str], loading: Loading) -> None:
        self._counters.lease_waits += len(keys)
        for _ in range(LEASE_POLLS):
            await self._sleep(LEASE_POLL_S)
            keys = await self._from_redis(cache, keys, loading, fresh_only=True)
            if not keys:
                return
        await self._from_database(cache, keys, loading, None, may_wait=True)

    async def _from_database(
        self, cache: TableCache, keys: list[str], loading: Loading, token: bytes | None, *, may_wait: bool
    ) -> None:
        """One query; what it brings goes to Redis if ``token`` holds its lease."""
        as_of_ms = self._now_ms()
        answer = await self._database.fetch(cache.table, keys, may_wait=may_wait)
        if isinstance(answer, str):
            loading.trouble.update(dict.fromkeys(keys, answer))
            await self._release(cache, keys, token)
            return
        self._counters.database_rows += len(answer)
        self._counters.negative += len(keys) - len(answer)
        entries = {}
        writes = {}
        for key in keys:
            raw = msgspec.json.encode(answer[key]) if key in answer else b""
            entry = entries[key] = cache.entry(key, as_of_ms, raw)
            keep_ms = max(entry.stale_until_ms, entry.error_until_ms) - self._now_ms()
            writes[cache.prefix + key] = Write(pack(as_of_ms, raw), max(1, keep_ms))
        loading.found.update({key: Found(entry, "database") for key, entry in entries.items()})
        if token is not None:
            await self._shared.call(lambda tier: tier.finish(token, writes))

    async def _release(self, cache: TableCache, keys: Iterable[str], token: bytes | None) -> None:
        if token is not None:
            await self._shared.call(lambda tier: tier.finish(token, dict.fromkeys((cache.prefix + key for key in keys), None)))


def _entry(cache: TableCache, key: str, packed: bytes) -> Entry | None:
    """None when it is not ours: then the database is asked, and what it says is written over it."""
    found = unpack(packed)
    try:
        return None if found is None else cache.entry(key, *found)
    except msgspec.DecodeError:
        return None

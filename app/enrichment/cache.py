"""Reference data for whole batches: process cache, Redis, database, in this order.

Degraded, and counted: Redis away costs one short timeout and then more queries; the database away gives what is remembered
within ``stale_if_error_s``, else ``Unavailable``, and the caller applies the table's policy. Nothing here stops the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from app.enrichment.api import Answer, Known, ReferenceCounters, Unavailable, UnknownReference
from app.enrichment.declaration import ReferenceTable
from app.enrichment.entries import Entry, Flight, TableCache, answer_of
from app.enrichment.gates import DatabaseGate, SharedGate
from app.enrichment.loader import Loader, Loading
from app.enrichment.shared import key_prefix

log = structlog.get_logger(__name__)

#: A load that an invalidation overtakes is begun anew this often; a key that changes faster is answered as it was.
ROUNDS: Final = 3
#: Refreshes at one time; each is one query for the stale keys of a batch.
MAX_REFRESHES: Final = 8
CANCEL_AGAIN_S: Final = 0.5
#: Clocks of workers differ by less.
CLOCK_SKEW_MS: Final = 2000


class ReferenceCache:
    """One per process, on one event loop. ``open_reference`` makes it.

    Args:
        tables: what is declared, by name.
        app_id: first part of its keys in Redis.
        rows: bound of the process cache, per table.
        now_ms: wall clock, epoch ms.
    """

    def __init__(
        self,
        tables: Mapping[str, ReferenceTable],
        database: DatabaseGate,
        shared: SharedGate,
        loader: Loader,
        counters: ReferenceCounters,
        *,
        app_id: str,
        rows: int,
        now_ms: Callable[[], int],
    ) -> None:
        self.counters = counters
        self._database = database
        self._shared = shared
        self._loader = loader
        self._now_ms = now_ms
        self._tables = {name: TableCache(table, rows, key_prefix(app_id, table), counters) for name, table in tables.items()}
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshes = 0

    @property
    def tables(self) -> dict[str, ReferenceTable]:
        """What is declared, by name: policy and default of each."""
        return {name: cache.table for name, cache in self._tables.items()}

    @property
    def away(self) -> list[str]:
        """Which of its services do not answer (their breakers are open), as ``/readyz`` names them."""
        breakers = {"reference": self._database.breaker, "reference cache": self._shared.breaker}
        return [name for name, breaker in breakers.items() if not breaker.is_closed]

    def sizes(self) -> dict[str, int]:
        """Rows per table in the process cache."""
        return {name: len(cache.entries) for name, cache in self._tables.items()}

    def get_cached(self, table: str, keys: Iterable[str]) -> tuple[dict[str, Answer], list[str]]:
        """Fresh answers that the process has, and the keys to give to ``get_many``. No await, well below 1 us per key.

        Raises:
            UnknownReference: nobody declared this table.
        """
        entries = self._cache(table).entries
        now_ms = self._now_ms()
        get, touch = entries.get, entries.move_to_end
        found: dict[str, Answer] = {}
        missing: list[str] = []
        for key in keys:
            entry = get(key)
            if entry is not None and now_ms < entry.fresh_until_ms:
                touch(key)
                found[key] = entry.answer
            else:
                missing.append(key)
        self.counters.process_hits += len(found)
        return found, missing

    async def get_many(self, table: str, keys: Iterable[str]) -> dict[str, Answer]:
        """An answer for every key. Bounded in time, and no service's outage is an exception.

        Raises:
            UnknownReference: nobody declared this table.
        """
        answers, missing = self.get_cached(table, keys)
        if missing:
            answers.update(await self._missing(self._cache(table), dict.fromkeys(missing)))
        return answers

    async def invalidate(self, table: str, keys: Iterable[str]) -> None:
        """The rows of these keys have changed: when this returns nobody is given here what was read before it began.

        Other workers have process caches of their own: each must be told. If Redis cannot be told, then nothing that it
        has of this table from before now is believed by this worker.

        Raises:
            UnknownReference: nobody declared this table.
        """
        cache = self._cache(table)
        changed = [key for key in dict.fromkeys(keys) if _is_text(key)]
        if not changed:
            return
        self.counters.invalidated += len(changed)
        began_ms = self._now_ms()
        try:
            told = await self._shared.call(lambda tier: tier.forget([cache.prefix + key for key in changed]))
            if told is None:
                cache.distrust_before_ms = max(cache.distrust_before_ms, began_ms + CLOCK_SKEW_MS)
        finally:
            cache.forget(changed)  # after Redis: until then a load may take the old row from there

    async def aclose(self) -> None:
        """End all loads, close the database. Whoever waits for a load is told that it failed."""
        while self._tasks:  # again, if a client library swallowed a cancellation or a load was begun meanwhile
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=CANCEL_AGAIN_S)
        await self._shared.aclose()
        await self._database.aclose()

    def _cache(self, table: str) -> TableCache:
        try:
            return self._tables[table]
        except KeyError:
            raise UnknownReference(table, self._tables) from None

    # -- what the process cache cannot answer -----------------------------------------------------

    async def _missing(self, cache: TableCache, keys: Iterable[str]) -> dict[str, Answer]:
        now_ms = self._now_ms()
        answers, wanted = cache.stale(keys, now_ms)
        self.counters.misses += len(wanted)
        self.counters.stale += len(answers)
        if answers:
            self._refresh(cache, list(answers))
        for key in [key for key in wanted if not _is_text(key)]:
            wanted.remove(key)
            answers[key] = cache.entry("", now_ms, b"").answer
        for _ in range(ROUNDS):
            if not wanted:
                return answers
            wanted = await self._join(cache, wanted, answers)
        self.counters.unavailable += sum(key not in answers for key in wanted)
        return dict.fromkeys(wanted, Unavailable("failed")) | answers

    async def _join(self, cache: TableCache, wanted: list[str], answers: dict[str, Answer]) -> list[str]:
        """Wait for loads of these keys, those of others included; the keys to ask for again."""
        fresh = [key for key in wanted if key not in cache.flights]
        flights = {key: cache.flights[key] for key in wanted if key in cache.flights}
        if fresh:
            flights |= dict.fromkeys(fresh, self._begin(cache, fresh, is_refresh=False))
        await asyncio.wait({flight.done for flight in flights.values()})  # cancelling one who waits ends no load
        again = []
        for key, flight in flights.items():
            if (outcome := flight.outcomes.get(key)) is not None:
                answers[key] = outcome
            if outcome is None or key in flight.overtaken:
                again.append(key)
        return again

    def _refresh(self, cache: TableCache, keys: list[str]) -> None:
        keys = [key for key in keys if key not in cache.flights]
        if not keys or not self._database.breaker.is_due:
            return
        if self._refreshes >= MAX_REFRESHES:
            self.counters.shed += len(keys)
            return
        self._refreshes += 1
        self.counters.refreshes += len(keys)
        self._begin(cache, keys, is_refresh=True)

    def _begin(self, cache: TableCache, keys: list[str], *, is_refresh: bool) -> Flight:
        loop = asyncio.get_running_loop()
        flight = Flight(keys, is_refresh, loop.create_future())
        cache.flights.update(dict.fromkeys(keys, flight))
        task = loop.create_task(self._fly(cache, flight), name=f"enrichment-{cache.table.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return flight

    async def _fly(self, cache: TableCache, flight: Flight) -> None:
        """Whatever happens, the flight lands."""
        loading = Loading()
        if not flight.is_refresh:
            loading.trouble = dict.fromkeys(flight.keys, "failed")
        try:
            loading = await self._loader.load(cache, flight.keys, is_refresh=flight.is_refresh)
        except Exception:  # a bug must cost an answer, not the stream
            log.exception("reference_load_failed", table=cache.table.name)
        finally:
            self._land(cache, flight, loading)

    def _land(self, cache: TableCache, flight: Flight, loading: Loading) -> None:
        self._refreshes -= flight.is_refresh
        for key in flight.keys:
            if cache.flights.get(key) is flight:
                del cache.flights[key]
        now_ms = self._now_ms()
        for key, (entry, tier) in loading.found.items():
            flight.outcomes[key] = answer_of(entry, tier, now_ms)
            if key in flight.overtaken:
                self.counters.overtaken += 1
            else:
                cache.remember(key, entry)
        for key, trouble in loading.trouble.items():
            held = None if key in flight.overtaken else self._hold(cache, key, loading.fallback.get(key), now_ms)
            if flight.is_refresh:
                continue  # who waits for it loads by himself, with more patience
            self.counters.stale_on_error += held is not None
            self.counters.unavailable += held is None
            flight.outcomes[key] = held or Unavailable(trouble)
        flight.done.set_result(None)

    def _hold(self, cache: TableCache, key: str, fallback: Entry | None, now_ms: int) -> Known | None:
        """The database is away: what is remembered here or in Redis, if it is young enough for that."""
        entry = _younger(cache.entries.get(key), fallback)
        if entry is None or now_ms >= entry.error_until_ms:
            return None
        cache.hold(key, entry, now_ms)
        return answer_of(entry, "redis" if entry is fallback else "process", now_ms)


def _younger(one: Entry | None, other: Entry | None) -> Entry | None:
    if one is None or other is None:
        return one or other
    return one if one.answer.as_of_ms >= other.answer.as_of_ms else other


def _is_text(key: str) -> bool:
    """Half a surrogate pair is in no database, and no client can send it."""
    if key.isascii():
        return True
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True

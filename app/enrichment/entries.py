"""One table in the process cache: what is remembered, for how long it is fresh, and which loads are under way."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec
import xxhash

from app.enrichment.api import Answer, Known, ReferenceCounters, Tier
from app.enrichment.declaration import ReferenceTable

#: While the database is away a stale row is given for this long before it is asked for again.
ERROR_HOLD_MS: Final = 1000


@dataclass(slots=True)
class Entry:
    """Bounds are epoch ms: fresh before the first, stale but given before the second, before the third only in an outage."""

    answer: Known
    fresh_until_ms: int
    stale_until_ms: int
    error_until_ms: int


class Found(NamedTuple):
    """An entry that a load brought, and where from."""

    entry: Entry
    tier: Tier


class Flight:
    """One load of some keys, and whoever waits for it. ``outcomes`` lacks a key when a refresh gave up on it."""

    __slots__ = ("done", "is_refresh", "keys", "outcomes", "overtaken")

    def __init__(self, keys: list[str], is_refresh: bool, done: asyncio.Future[None]) -> None:
        self.keys = keys
        self.is_refresh = is_refresh
        self.done = done
        self.outcomes: dict[str, Answer] = {}
        self.overtaken: set[str] = set()
        """Keys invalidated since it began: what it brings may be from before the change"""


class TableCache:
    """Not for several threads; every method is free of awaits.

    Args:
        rows: bound of ``entries``; the least recently used one leaves.
        prefix: of its keys in Redis.
    """

    def __init__(self, table: ReferenceTable, rows: int, prefix: str, counters: ReferenceCounters) -> None:
        self.table = table
        self.prefix = prefix
        self.entries: OrderedDict[str, Entry] = OrderedDict()
        self.flights: dict[str, Flight] = {}
        self.distrust_before_ms = 0
        """What Redis has from before is not believed: an invalidation could not reach it"""
        self._rows = rows
        self._counters = counters
        self._default = table.default_row
        self._default_raw = msgspec.json.encode(self._default)
        self._jitter = table.ttl_jitter / 2**32

    def entry(self, key: str, as_of_ms: int, raw: bytes) -> Entry:
        """What to remember of what the database said at ``as_of_ms``: the row as JSON, or nothing if there is none.

        Raises:
            msgspec.DecodeError: ``raw`` is not JSON.
        """
        table, found = self.table, bool(raw)
        value, raw = (msgspec.json.decode(raw), raw) if found else (self._default, self._default_raw)
        ttl_s = table.ttl_s if found else table.negative_ttl_s
        # By key, so that rows loaded together do not expire together, and the same on every worker.
        fresh_until_ms = as_of_ms + int(ttl_s * 1000 * (1 - self._jitter * xxhash.xxh32_intdigest(key.encode())))
        # That a row is absent is not given stale: the row may be the one that was just made.
        stale_ms = int(table.stale_while_revalidate_s * 1000) if found else 0
        return Entry(
            Known(value, raw, found, as_of_ms, "process"),
            fresh_until_ms,
            fresh_until_ms + stale_ms,
            fresh_until_ms + int(table.stale_if_error_s * 1000),
        )

    def remember(self, key: str, entry: Entry) -> None:
        """Keep it, and let another one go for it."""
        self.entries[key] = entry
        self.entries.move_to_end(key)
        while len(self.entries) > self._rows:
            self.entries.popitem(last=False)
            self._counters.evicted += 1

    def stale(self, keys: Iterable[str], now_ms: int) -> tuple[dict[str, Answer], list[str]]:
        """Of keys that are not fresh: answers that are given all the same, and the rest."""
        given: dict[str, Answer] = {}
        rest: list[str] = []
        for key in keys:
            entry = self.entries.get(key)
            if entry is not None and now_ms < entry.stale_until_ms:
                given[key] = answer_of(entry, "process", now_ms)
            else:
                rest.append(key)
        return given, rest

    def forget(self, keys: Iterable[str]) -> None:
        """Loads under way no longer count for these keys, and the next one to ask begins another."""
        for key in keys:
            self.entries.pop(key, None)
            flight = self.flights.pop(key, None)
            if flight is not None:
                flight.overtaken.add(key)

    def hold(self, key: str, entry: Entry, now_ms: int) -> None:
        """The database is away: give this entry for a while before it is asked for again."""
        entry.stale_until_ms = max(entry.stale_until_ms, min(entry.error_until_ms, now_ms + ERROR_HOLD_MS))
        self.remember(key, entry)


def answer_of(entry: Entry, tier: Tier, now_ms: int) -> Known:
    """An entry as an answer from ``tier``."""
    known = entry.answer
    return Known(known.value, known.raw, known.found, known.as_of_ms, tier, now_ms >= entry.fresh_until_ms)

"""How the reference cache does, read from it when ``/metrics`` is scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.metric import Reading

#: Counter of the cache -> label of the metric it is shown as.
ANSWERS: Final[Mapping[str, str]] = {
    "process_hits": "process", "redis_hits": "redis", "database_rows": "database", "negative": "absent", "stale": "stale",
    "stale_on_error": "stale_on_error", "unavailable": "unavailable",
}  # fmt: skip
LOADS: Final[Mapping[str, str]] = {
    "queries": "query", "errors": "failed_query", "redis_errors": "failed_redis_call", "refreshes": "refreshed_key", "shed": "shed_key",
    "lease_waits": "waited_for_lease", "overtaken": "overtaken", "evicted": "evicted", "invalidated": "invalidated",
}  # fmt: skip


class Cache(Protocol):
    """What is read of ``app.enrichment.cache.ReferenceCache``."""

    @property
    def counters(self) -> object: ...

    @property
    def away(self) -> list[str]: ...

    def sizes(self) -> dict[str, int]: ...


class Follower(Protocol):
    """What is read of ``app.reference_service.ReferenceService``."""

    @property
    def changes(self) -> int: ...

    @property
    def unreadable(self) -> int: ...


class ReferenceMetrics:
    """A source over the cache, which is there once the worker has started."""

    def __init__(self, catalogue: Catalogue, cache: Callable[[], Cache | None], follower: Follower) -> None:
        self._cache = cache
        self._follower = follower
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        cache = self._cache()
        if cache is None:
            return
        for name, label in ANSWERS.items():
            yield m.REFERENCE_ANSWERS, (label,), getattr(cache.counters, name)
        for name, label in LOADS.items():
            yield m.REFERENCE_LOADS, (label,), getattr(cache.counters, name)
        for table, rows in cache.sizes().items():
            yield m.REFERENCE_ROWS, (table,), rows
        yield m.REFERENCE_DEGRADED, (), float(bool(cache.away))
        yield m.REFERENCE_CHANGES, ("invalidated",), self._follower.changes
        yield m.REFERENCE_CHANGES, ("unreadable",), self._follower.unreadable

"""What the worker notices about itself, read when ``/metrics`` is scraped: stall watchdog, self-fence, and how it ended last time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from app.engine.status import EngineStatus, LastEnd
from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.metric import Reading


class Watchdog(Protocol):
    """``app.engine.watchdog.StallWatchdog`` fits."""

    @property
    def failures(self) -> int: ...

    def still_seconds(self) -> Mapping[tuple[str, int], float]:
        """By topic and partition; those that move are not in it."""
        ...


class Fence(Protocol):
    """``app.engine.fence.Fence`` fits. Seconds."""

    @property
    def limit_s(self) -> float: ...
    @property
    def longest_s(self) -> float: ...


class WatchMetrics:
    """A source over both."""

    def __init__(self, catalogue: Catalogue, engine: EngineStatus, watchdog: Watchdog, fence: Fence) -> None:
        self._engine, self._watchdog, self._fence = engine, watchdog, fence
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        still = self._watchdog.still_seconds()
        for status in self._engine.lanes():
            source = (status.topic, status.lane.partition)
            yield m.STALLED_SECONDS, (source[0], str(source[1])), still.get(source, 0.0)
        yield m.END_QUERY_FAILURES, (), self._watchdog.failures
        yield m.FENCE_LONGEST, (), self._fence.longest_s
        yield m.FENCE_LIMIT, (), self._fence.limit_s


class LastEndMetrics:
    """How the process before this one ended; nothing unless it ended itself."""

    def __init__(self, catalogue: Catalogue, end: LastEnd | None) -> None:
        self._end = end
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        if self._end is not None:
            yield m.LAST_END, (self._end.cause,), self._end.at_s

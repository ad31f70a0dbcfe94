"""How far the index of dead letters is, and what is left to do: gauges of ``veltrix admin``."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.metric import Reading

log = structlog.get_logger(__name__)

#: Numbers of the queues are this old at most, seconds.
REFRESH_S: Final = 5.0


class Follower(Protocol):
    """``app.dead_letters.index.follower.IndexFollower`` fits."""

    added: int
    problem: str | None

    @property
    def lag(self) -> int | None: ...


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    """One queue: letters by status, and when the oldest pending one failed (epoch ms)."""

    statuses: Mapping[str, int]
    oldest_pending_ms: int | None


class IndexMetrics:
    """Lag and size of the index, and its queues. ``retention_ms``: of our own queues."""

    def __init__(self, catalogue: Catalogue, follower: Follower, retention_ms: int) -> None:
        self._follower = follower
        self._retention_s = retention_ms / 1000
        self._queues: Mapping[str, QueueNumbers] = {}
        catalogue.add(self)

    async def watch(self, look: Callable[[], Awaitable[Mapping[str, QueueNumbers]]]) -> None:
        """Ask for the queues' numbers again and again, until cancelled. An index that cannot be read has none."""
        while True:
            try:
                self._queues = await look()
            except sqlite3.Error as exc:
                log.warning("queue_numbers_unknown", reason=str(exc))
                self._queues = {}
            await asyncio.sleep(REFRESH_S)

    def readings(self) -> Iterator[Reading]:
        yield m.INDEX_ADDED, (), self._follower.added
        yield m.INDEX_CONNECTED, (), float(self._follower.problem is None)
        yield m.QUEUE_RETENTION, (), self._retention_s
        if self._follower.lag is not None:  # an unknown lag is absent, not 0
            yield m.INDEX_LAG, (), self._follower.lag
        for queue, numbers in self._queues.items():
            for status, count in ({"pending": 0} | dict(numbers.statuses)).items():
                yield m.QUEUE_LETTERS, (queue, status), count
            oldest_ms = numbers.oldest_pending_ms
            yield m.QUEUE_OLDEST, (queue,), 0.0 if oldest_ms is None else max(0.0, time.time() - oldest_ms / 1000)

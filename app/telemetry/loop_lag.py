"""How late the event loop is: everything of this process runs on it, so a blocked loop delays every lane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.histogram import Histogram
from app.telemetry.metric import Reading

#: A slice this long holds up every partition and, a few times in a row, the group's heartbeats.
SLOW_S = 1.0


class LoopLagMonitor:
    """Sleeps ``interval_s`` again and again and notes by how much each sleep came late.

    ``run()`` is a coroutine for the caller to start and cancel. ``slow_seconds()`` is what liveness asks: it is 0
    as soon as one sleep was on time, so a single long pause (a suspended machine) never fails a probe.
    """

    def __init__(self, catalogue: Catalogue, interval_s: float = 0.1, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._lags = Histogram(m.LAG_BUCKETS)
        self._last_tick: float | None = None
        self._on_time: float | None = None
        catalogue.add(self)

    async def run(self) -> None:
        """Measure until cancelled."""
        self.tick()
        while True:
            await asyncio.sleep(self._interval_s)
            self.tick()

    def tick(self) -> None:
        """One sleep is over; the first call only starts the clock."""
        now = self._clock()
        if self._last_tick is None or self._on_time is None:
            self._last_tick = self._on_time = now
            return
        lag = max(0.0, now - self._last_tick - self._interval_s)
        self._lags.observe(lag)
        self._last_tick = now
        if lag < SLOW_S:
            self._on_time = now

    def slow_seconds(self) -> float:
        """For how long every measurement was late, or missing; 0 while healthy or not started."""
        if self._last_tick is None or self._on_time is None:
            return 0.0
        slow_for = self._clock() - self._on_time
        return slow_for if slow_for > SLOW_S + self._interval_s else 0.0

    def readings(self) -> Iterator[Reading]:
        yield m.LOOP_LAG, (), self._lags

"""The self-fence: a process that slept longer than its group waits is no member any more, and must not write.

While a process is stopped (SIGSTOP, a frozen container, a suspended machine) or its event loop is blocked, it sends
no heartbeat; after the session timeout the group gives its partitions to others. When it goes on it still believes
that it owns them. So it ends itself, with exit code 70, and comes back as a new member. It cannot know whether
someone has taken over; ending is right in both cases, because everything that is not durable is repeated.

Three checks, from early to certain:

- **SIGCONT.** Python runs a signal's handler before the next bytecode of the main thread, hence before any callback
  that the loop has ready (after a stop these are input and output, which come before timers). Covers SIGSTOP.
- **The tick**, a timer of the loop. Covers what sends no signal, but ready callbacks run first.
- **``check``**, called right before each send that only the owner may do. Whatever ran before it, nothing is sent.

The time is CLOCK_BOOTTIME, which goes on while the machine is suspended (CLOCK_MONOTONIC does not).
What was in the socket's buffer when the process was stopped is not stopped by this: the changelog's own check is for that.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Final

from app.engine.guard import Fatal
from app.engine.guard import fatal as end_process
from app.settings import Settings

#: Ticks per limit: how exactly a pause is measured.
TICKS: Final = 20


class SelfFenced(Exception):
    """This process slept for longer than its group waits for it. It ends and starts again as a new member."""

    def __init__(self, gap_s: float, limit_s: float) -> None:
        super().__init__(
            f"this process stood still for {gap_s:.1f} s (limit {limit_s:g} s): the group has given its partitions away by now"
        )
        self.gap_s = gap_s


def boot_clock() -> Callable[[], float]:
    """Seconds since boot with the time the machine was suspended, where the system has such a clock; else without."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.monotonic
    number, read = time.CLOCK_BOOTTIME, time.clock_gettime
    return lambda: read(number)


class Fence:
    """Notices that this process stood still for longer than ``limit_s`` seconds while it ``owns`` partitions.

    ``run`` is a coroutine for the worker to start and cancel. A process that owns nothing may stand still.
    """

    def __init__(
        self,
        limit_s: float,
        owns: Callable[[], bool],
        fatal: Fatal = end_process,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.limit_s = limit_s
        self.longest_s = 0.0
        """longest time between two ticks while partitions were owned"""
        self._owns = owns
        self._fatal = fatal
        self._clock = clock or boot_clock()
        self._last_tick = self._clock()

    @classmethod
    def of(cls, settings: Settings, owns: Callable[[], bool], fatal: Fatal = end_process) -> Fence:
        """As configured. The last heartbeat may be one interval older than the last tick, hence the difference."""
        return cls((settings.kafka_session_timeout_ms - settings.kafka_heartbeat_interval_ms) / 1000, owns, fatal)

    async def run(self) -> None:
        """Watch until cancelled."""
        before = signal.signal(signal.SIGCONT, lambda number, frame: self._continued())
        try:
            self._last_tick = self._clock()
            while True:
                await asyncio.sleep(self.limit_s / TICKS)
                self.tick()
        finally:
            signal.signal(signal.SIGCONT, before)

    def tick(self) -> None:
        """The loop is alive."""
        now = self._clock()
        gap, self._last_tick = now - self._last_tick, now
        if not self._owns():
            return
        self.longest_s = max(self.longest_s, gap)
        if gap > self.limit_s:
            self._trip(gap)

    def check(self) -> None:
        """Call right before a send that only the owner of the partition may do: does not return when it is too late."""
        gap = self._clock() - self._last_tick
        if gap > self.limit_s:
            self._trip(gap)

    def _continued(self) -> None:
        """The process was stopped until now. The loop has not run yet, so this is no tick: two stops in a row add up."""
        if self._owns():
            self.check()

    def _trip(self, gap: float) -> None:
        exc = SelfFenced(gap, self.limit_s)
        self._fatal(str(exc), None)
        raise exc  # only a fatal that returns gets here: nothing may be sent all the same

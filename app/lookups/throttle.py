"""A rate that several share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Throttle:
    """At most ``per_s`` a second, on average, over all that spend from it."""

    def __init__(
        self,
        per_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._per_s, self._clock, self._sleep = per_s, clock, sleep
        self._free_at = clock()

    async def spend(self, count: int) -> None:
        """``count`` were done: wait until the rate allows for more."""
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._per_s
        await self._sleep(self._free_at - now)

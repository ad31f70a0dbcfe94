"""Requests a second of one caller: a token bucket each, for the callers of late."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: A bucket that nobody has used for longer than the others goes first; a new one is full.
MAX_CALLERS: Final = 1_000
#: Seconds of requests that may come at once.
BURST_S: Final = 2.0


class Rates:
    """Args: per_s: requests a second that each caller may make in the long run."""

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._clock = per_s, clock
        self._most = max(1.0, per_s * BURST_S)
        #: Tokens, and when they were counted.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """0: go on; else seconds after which there is room again."""
        now = self._clock()
        tokens, since = self._buckets.pop(caller, (self._most, now))
        tokens = min(self._most, tokens + (now - since) * self._per_s)
        wait_s = 0.0 if tokens >= 1 else (1 - tokens) / self._per_s
        self._buckets[caller] = (tokens if wait_s else tokens - 1, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait_s

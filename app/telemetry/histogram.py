"""Histograms that take a whole micro-batch at once.

``prometheus_client.Histogram.observe`` costs about a microsecond a value; the pipeline has two latencies per
record. Here a batch is sorted once and each bucket finds its share by bisection, so the cost is per unit.
Not thread-safe: values are written and read on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from prometheus_client.samples import Exemplar

#: Below this many values one bisection each is cheaper than walking the buckets.
FEW = 8


class Histogram:
    """Counts per bucket and the sum of all values. ``bounds`` are upper, inclusive, ascending, in the metric's unit."""

    __slots__ = ("bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError("bounds must be ascending, distinct and not empty")
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.exemplars: dict[int, Exemplar] = {}
        """newest recorded value, by bucket"""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts with their ``le`` label, ``+Inf`` last: what the exposition format wants."""
        found, cumulative = [], 0
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            cumulative += count
            found.append(("+Inf" if bound is None else repr(float(bound)), float(cumulative)))
        return found

    def buckets_with_exemplars(self) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
        """The same, with the exemplar of each bucket that has one."""
        found: list[tuple[str, float] | tuple[str, float, Exemplar]] = [*self.buckets()]
        for index, exemplar in self.exemplars.items():
            found[index] = (*found[index][:2], exemplar)
        return found


class AgeHistogram(Histogram):
    """Ages in seconds of things stamped with epoch milliseconds. A stamp in the future counts as age 0:
    producers' clocks run ahead, and a sum that shrinks would look like a restart."""

    __slots__ = ("_bounds_ms",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self._bounds_ms = [bound * 1000 for bound in self.bounds]

    def observe_ages(self, now_ms: int, stamps: Sequence[int], sum_ms: int) -> None:
        """Count ``now_ms - stamp`` for every stamp; ``stamps`` must be ascending, ``sum_ms`` is their sum (many histograms share it)."""
        if len(stamps) <= FEW:
            for stamp in stamps:
                age = max(0, now_ms - stamp)
                self.counts[bisect_left(self._bounds_ms, age)] += 1
                self.total += age / 1000
            return
        self._count_by_bucket(now_ms, stamps)
        self.total += (len(stamps) * now_ms - sum_ms) / 1000
        if stamps[-1] > now_ms:
            ahead = stamps[bisect_right(stamps, now_ms) :]
            self.total += (sum(ahead) - len(ahead) * now_ms) / 1000

    def show(self, now_ms: int, stamp: int, trace_id: str) -> None:
        """A trace is recorded of the thing with this stamp, which was counted by ``observe_ages``: its bucket names it."""
        age = max(0, now_ms - stamp)
        self.exemplars[bisect_left(self._bounds_ms, age)] = Exemplar({"trace_id": trace_id}, age / 1000, now_ms / 1000)

    def _count_by_bucket(self, now_ms: int, stamps: Sequence[int]) -> None:
        size, counted = len(stamps), 0
        first = bisect_left(self._bounds_ms, now_ms - stamps[-1])
        for index in range(first, len(self._bounds_ms)):
            within = size - bisect_left(stamps, now_ms - self._bounds_ms[index])
            self.counts[index] += within - counted
            counted = within
            if counted == size:
                return
        self.counts[-1] += size - counted

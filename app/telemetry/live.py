"""What happened in the last seconds: rates and latencies for people who look now. Prometheus keeps the history."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from app.engine.status import EngineStatus, Stage
from app.telemetry.catalogue import LATENCY_BUCKETS
from app.telemetry.pipeline import OUTCOMES, PipelineMetrics

Counts = dict[tuple[str, ...], float]
INTERVAL_S: Final = 1.0
#: Rates are those of so many intervals: long enough to be steady, short enough to see a change at once.
KEPT: Final = 10
STAGE: Final[Stage] = "visible"


class LiveNumbers:
    """Takes a sample of the counters every second and keeps the last ten.

    Keys of rates: ``("consumed", source)``, ``(outcome, source)``, ``("out", agent, topic)``, ``("lane", agent, partition)``.
    """

    def __init__(self, pipeline: PipelineMetrics, engine: EngineStatus, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline, self._engine, self._clock = pipeline, engine, clock
        self._samples: deque[tuple[float, Counts, dict[str, list[int]]]] = deque(maxlen=KEPT + 1)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(INTERVAL_S)

    def sample(self) -> None:
        """Remember the counters as they are now."""
        ages = {topic: list(totals.ages[STAGE].counts) for topic, totals in self._pipeline.sources.items()}
        self._samples.append((self._clock(), self._counts(), ages))

    def _counts(self) -> Counts:
        counts: Counts = {("out", *pair): count for pair, count in self._pipeline.outputs.items()}
        for topic, totals in self._pipeline.sources.items():
            counts["consumed", topic] = totals.consumed
            for outcome in OUTCOMES:
                counts[outcome, topic] = getattr(totals, outcome)
        for status in self._engine.lanes():
            counts["lane", status.lane.agent, str(status.lane.partition)] = status.ledger.consumed
        return counts

    def per_s(self, *key: str) -> float | None:
        """Per second; None: not known yet. A lane that has just come here, with its count, has no rate in its first sample."""
        if len(self._samples) < 2:
            return None
        now, latest, _ = self._samples[-1]
        since, first, _ = next((sample for sample in self._samples if key in sample[1]), self._samples[-1])
        if key[0] != "lane" and since != self._samples[0][0]:  # it has begun since, at 0
            since, first = self._samples[0][0], {}
        return max(0.0, latest.get(key, 0.0) - first.get(key, 0.0)) / (now - since) if now > since else 0.0

    def latency_ms(self, source: str, quantile: float) -> float | None:
        """Timestamp to visible, of the records of the last seconds; None without any. Interpolated within its bucket."""
        if len(self._samples) < 2 or source not in self._samples[-1][2]:
            return None
        latest = self._samples[-1][2][source]
        first: Mapping[str, list[int]] = self._samples[0][2]
        counts = [now - before for now, before in zip(latest, first.get(source, [0] * len(latest)), strict=True)]
        return _quantile_ms(counts, quantile)


def _quantile_ms(counts: list[int], quantile: float) -> float | None:
    rank, below = quantile * sum(counts), 0.0
    bounds = (0.0, *LATENCY_BUCKETS, LATENCY_BUCKETS[-1])
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            lower, upper = bounds[index], bounds[index + 1]
            return round(1000 * (lower + (upper - lower) * (rank - below) / count), 1)
        below += count
    return None

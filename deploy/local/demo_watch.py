"""Watching the demo's workers: one pass over all of them gives one snapshot."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.local.demo_metrics import Buckets, Counts, LedgerBook, Reading, merged, quantile_ms, read_metrics, since
from deploy.local.demo_state import WorkerRef
from deploy.local.worker_process import http_get

WINDOW_S = 5.0
LEADERS = 3


@dataclass(frozen=True, slots=True)
class WorkerView:
    """One worker on the screen."""

    ref: WorkerRef
    reading: Reading


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The demo at one moment; rates and ``recent_*`` are over the last five seconds. Latencies in ms, None: no event yet."""

    seconds: float
    counts: Counts
    events_per_second: float
    dead_letters: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None
    recent_p50_ms: float | None
    recent_p99_ms: float | None
    lag: int
    state_keys: int
    workers: Sequence[WorkerView]
    trending: Sequence[str] = ()
    """the leading items of the newest closed windows"""


class Watch:
    """Scrapes workers and remembers what the ones that left had counted."""

    def __init__(self) -> None:
        self._book = LedgerBook()
        self._readings: dict[str, Reading] = {}
        self._history: deque[tuple[float, int, Buckets]] = deque()

    def look(self, workers: Sequence[WorkerRef], seconds: float) -> Snapshot:
        """Ask every worker; one that does not answer shows as starting or unreachable. ``seconds`` since traffic began."""
        views = [WorkerView(ref, self._ask(ref)) for ref in workers]
        counts = self._book.counts()
        latency = merged(reading.latency for reading in self._readings.values())
        then, consumed, older = self._remember(seconds, counts.consumed, latency)
        recent = since(latency, older)
        reasons: Counter[str] = Counter()
        for reading in self._readings.values():
            reasons.update(reading.dead_letters)
        return Snapshot(
            seconds=seconds,
            counts=counts,
            events_per_second=(counts.consumed - consumed) / (seconds - then) if seconds > then else 0.0,
            dead_letters=dict(reasons.most_common()),
            p50_ms=quantile_ms(latency, 0.5),
            p99_ms=quantile_ms(latency, 0.99),
            recent_p50_ms=quantile_ms(recent, 0.5),
            recent_p99_ms=quantile_ms(recent, 0.99),
            lag=sum(view.reading.lag for view in views),
            state_keys=sum(view.reading.state_keys for view in views),
            workers=views,
            trending=_trending(workers),
        )

    def _ask(self, ref: WorkerRef) -> Reading:
        name = f"{ref.name}:{ref.pid}"
        try:
            (_, metrics), (status, ledger) = http_get(ref.port, "/metrics"), http_get(ref.port, "/api/v1/ledger")
        except OSError:
            # What it had counted stays in our books.
            return Reading(phase="unreachable" if name in self._readings else "starting")
        reading = self._readings[name] = read_metrics(metrics.decode())
        if status == 200:
            self._book.update(json.loads(ledger)["lanes"])
        return reading

    def _remember(self, seconds: float, consumed: int, latency: Buckets) -> tuple[float, int, Buckets]:
        """The oldest entry of the window, after this one was added."""
        self._history.append((seconds, consumed, latency))
        while len(self._history) > 2 and self._history[1][0] <= seconds - WINDOW_S:
            self._history.popleft()
        return self._history[0]


def _trending(workers: Sequence[WorkerRef]) -> list[str]:
    """As the first worker that answers says it: it asks Redis for all partitions."""
    for ref in workers:
        try:
            status, body = http_get(ref.port, f"/api/v1/lookups/trending?limit={LEADERS}")
        except OSError:
            continue
        if status == 200:
            return [item["key"] for item in json.loads(body)["items"]]
    return []

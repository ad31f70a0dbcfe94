"""What the demo shows, computed from what workers say on /metrics and /api/v1/ledger. Pure: text in, numbers out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

LATENCY = "veltrix_event_latency_seconds_bucket"
VISIBLE = "visible"
"""Stage of the latency histogram: from the record's intended send time to its output being acknowledged."""
SOURCE = "interactions"
"""Whose events are counted: the other topics are our own, made from these"""
SOURCE_AGENT = "process_interactions"

Buckets = Mapping[float, float]
"""Upper bound in seconds (inf last) to cumulative count."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One scrape of one worker. Counters count since that worker started."""

    phase: str = "starting"
    partitions: tuple[int, ...] = ()
    lag: int = 0
    state_keys: int = 0
    redis_lanes: Mapping[str, int] = field(default_factory=dict)
    """partitions by how their lookups follow the table: live, catching_up, rebuilding, down; empty without Redis"""
    consumed: int = 0
    answers: Mapping[str, int] = field(default_factory=dict)
    """reference data given, per key, by where it came from"""
    queries: int = 0
    """asked of the reference database"""
    waiting: Mapping[str, int] = field(default_factory=dict)
    """open sessions and windows, by view"""
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    latency: Buckets = field(default_factory=dict)


#: Metrics that are shown by one of their labels.
BY_LABEL = {
    "veltrix_dead_letters_total": "reason",
    "veltrix_redis_lanes": "state",
    "veltrix_reference_answers_total": "answer",
    "veltrix_reference_loads_total": "event",
    "veltrix_waiting_keys": "view",
}


def read_metrics(text: str) -> Reading:
    """Parse a worker's /metrics; a metric that is not there counts as 0."""
    latency: dict[float, float] = {}
    totals: Counter[str] = Counter()
    labelled: dict[str, Counter[str]] = {name: Counter() for name in BY_LABEL}
    partitions: set[int] = set()
    phase, consumed = "starting", 0
    for sample in [sample for family in text_string_to_metric_families(text) for sample in family.samples]:
        totals[sample.name] += int(sample.value) if math.isfinite(sample.value) else 0
        if sample.name in BY_LABEL:
            labelled[sample.name][sample.labels[BY_LABEL[sample.name]]] += int(sample.value)
        match sample.name:
            case "veltrix_events_consumed_total" if sample.labels["source"] == SOURCE:
                consumed = int(sample.value)
            case "veltrix_event_latency_seconds_bucket" if (sample.labels["source"], sample.labels["stage"]) == (SOURCE, VISIBLE):
                latency[float(sample.labels["le"])] = sample.value
            case "veltrix_queued_records":
                partitions.add(int(sample.labels["partition"]))
            case "veltrix_phase" if sample.value == 1:
                phase = sample.labels["phase"]
    return Reading(
        phase=phase,
        partitions=tuple(sorted(partitions)),
        lag=totals["veltrix_consumer_lag"],
        state_keys=totals["veltrix_state_keys"],
        redis_lanes=labelled["veltrix_redis_lanes"],
        consumed=consumed,
        answers=labelled["veltrix_reference_answers_total"],
        queries=labelled["veltrix_reference_loads_total"]["query"],
        waiting=labelled["veltrix_waiting_keys"],
        dead_letters=labelled["veltrix_dead_letters_total"],
        latency=latency,
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Outcomes since the demo began; ``residue`` is what has none, and is 0."""

    consumed: int = 0
    emitted: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    residue: int = 0


class LedgerBook:
    """The group's ledger, lane by lane.

    A lane's counts only grow and move with it from worker to worker, so the largest ones seen are the newest:
    a lane that two workers name, or for a moment none, is counted once all the same.
    """

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, int], Mapping[str, Any]] = {}

    def update(self, lanes: Iterable[Mapping[str, Any]]) -> None:
        """Take the ``lanes`` of one worker's /api/v1/ledger."""
        for lane in lanes:
            key = (lane["agent"], lane["partition"])
            known = self._lanes.get(key)
            if known is None or lane["consumed"] >= known["consumed"]:
                self._lanes[key] = lane

    def counts(self) -> Counts:
        """Sum over the lanes of the source; the residue is that of all lanes."""
        lanes = [lane for (agent, _), lane in self._lanes.items() if agent == SOURCE_AGENT]
        counts = Counts(*(sum(lane[name] for lane in lanes) for name in Counts.__slots__))
        return replace(counts, residue=sum(lane["residue"] for lane in self._lanes.values()))


def merged(histograms: Iterable[Buckets]) -> Buckets:
    """Sum of cumulative histograms with the same bounds."""
    total: Counter[float] = Counter()
    for buckets in histograms:
        total.update(buckets)
    return dict(sorted(total.items()))


def since(newer: Buckets, older: Buckets) -> Buckets:
    """What was counted between two scrapes."""
    return {bound: max(0.0, count - older.get(bound, 0.0)) for bound, count in newer.items()}


def quantile_ms(buckets: Buckets, q: float) -> float | None:
    """The quantile in milliseconds, linear within its bucket; None when nothing was counted.

    Above the last finite bound that bound is the answer: the histogram knows no more.
    """
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    rank, below, lower = q * total, 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank and count > below:
            upper = lower if math.isinf(bound) else bound
            return round((lower + (upper - lower) * (rank - below) / (count - below)) * 1000, 2)
        below, lower = count, bound
    return None


def ranges(partitions: Sequence[int]) -> str:
    """``0-3, 7`` for (0, 1, 2, 3, 7)."""
    runs: list[list[int]] = []
    for number in sorted(partitions):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)

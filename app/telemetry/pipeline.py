"""What the engine's units add up to: the engine's ``Observer`` and, at scrape time, a metrics source.

Per unit only plain numbers change (a few microseconds, whatever the unit's size); names, labels and text are
made when ``/metrics`` is read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from app.engine.api import LaneId
from app.engine.status import Stage, UnitReport
from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.histogram import AgeHistogram, Histogram
from app.telemetry.metric import Reading

OUTCOMES = ("emitted", "duplicate", "dead_lettered", "retried", "dropped")
#: Named reasons are a fixed small set; an agent that invents them at run time must not fill the time series database.
MAX_REASONS = 200
OTHER = ("other", "other")


class SourceTotals:
    """Counts and latencies of one source topic since this process started."""

    __slots__ = ("ages", "consumed", "dead_lettered", "dropped", "duplicate", "emitted", "newest_ms", "retried")

    def __init__(self) -> None:
        self.consumed = self.emitted = self.duplicate = self.dead_lettered = self.retried = self.dropped = 0
        self.ages: defaultdict[Stage, AgeHistogram] = defaultdict(partial(AgeHistogram, m.LATENCY_BUCKETS))
        """by stage, of those that this source's events reach"""
        self.newest_ms: dict[int, int] = {}
        """timestamp of the last record applied, by partition"""

    def add(self, report: UnitReport) -> None:
        self.consumed += report.records
        self.emitted += report.emitted
        self.duplicate += report.duplicates
        self.dead_lettered += len(report.dead_letters)
        self.retried += len(report.retries)
        self.dropped += report.dropped
        if report.timestamps:
            self.newest_ms[report.lane.partition] = report.timestamps[-1]
        stamps = sorted(report.timestamps)
        sum_ms = sum(stamps)
        for stage, at_ms in report.reached.items() if stamps else ():
            self.ages[stage].observe_ages(at_ms, stamps, sum_ms)
            for stamp, trace_id in report.traced:
                self.ages[stage].show(at_ms, stamp, trace_id)


class PipelineMetrics:
    """Implements ``app.engine.status.Observer``; a ``Source`` of the catalogue it is given."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.sources: dict[str, SourceTotals] = {}
        """by source topic"""
        self._batch_records = Histogram(m.RECORD_BUCKETS)
        self._batch_bytes = Histogram(m.BYTE_BUCKETS)
        self._commit_seconds = Histogram(m.LATENCY_BUCKETS)
        self._phase_seconds: dict[str, float] = {}
        self._steps: defaultdict[tuple[str, str], float] = defaultdict(float)
        self._dead_letters: Counter[tuple[str, str]] = Counter()
        self._retries: Counter[tuple[str, str]] = Counter()
        self._late: Counter[str] = Counter()
        self.outputs: Counter[tuple[str, str]] = Counter()
        """records published, by agent and topic"""
        self._changelog_records = self._changelog_bytes = 0
        self._commits = {"ok": 0, "failed": 0}
        self._rebalances, self._rebalance_seconds = 0, 0.0
        self._restored_records = self._restored_bytes = 0
        catalogue.add(self)

    # -- Observer ---------------------------------------------------------------------------------
    def unit_done(self, report: UnitReport) -> None:
        """Add one durable unit."""
        totals = self.sources.get(report.topic)
        if totals is None:
            totals = self.sources[report.topic] = SourceTotals()
        totals.add(report)
        if report.records:
            self._batch_records.observe(report.records)
            self._batch_bytes.observe(report.source_bytes)
        self._changelog_records += report.changelog_records
        self._changelog_bytes += report.changelog_bytes
        for phase, seconds in report.seconds.items():
            self._phase_seconds[phase] = self._phase_seconds.get(phase, 0.0) + seconds
        for step, seconds in report.steps.items():
            self._steps[report.lane.agent, step] += seconds
        self._late.update(report.late)
        for topic, count in report.outputs.items():
            self.outputs[report.lane.agent, topic] += count
        if report.dead_letters:
            _count_reasons(self._dead_letters, report.dead_letters)
        if report.retries:
            _count_reasons(self._retries, report.retries)

    def committed(self, seconds: float, ok: bool) -> None:
        """One offset commit came back."""
        self._commits["ok" if ok else "failed"] += 1
        self._commit_seconds.observe(seconds)

    def restored(self, lane: LaneId, records: int, size: int) -> None:
        """A batch of ``records`` changelog records, ``size`` bytes, went into a table."""
        self._restored_records += records
        self._restored_bytes += size

    def rebalanced(self, seconds: float, partitions: int) -> None:
        """A rebalance is over. How many ``partitions`` are owned is read from the engine's status instead."""
        self._rebalances += 1
        self._rebalance_seconds += seconds

    # -- Source -----------------------------------------------------------------------------------
    def readings(self) -> Iterator[Reading]:
        for topic, totals in self.sources.items():
            yield m.CONSUMED, (topic,), totals.consumed
            for outcome in OUTCOMES:
                yield m.EVENTS, (topic, outcome), getattr(totals, outcome)
            for stage, ages in totals.ages.items():
                yield m.LATENCY, (topic, stage), ages
        for pair, count in self.outputs.items():
            yield m.OUTPUTS, pair, count
        for result, count in self._late.items():
            yield m.LATE_EVENTS, (result,), count
        for failure, count in self._dead_letters.items():
            yield m.DEAD_LETTERS, failure, count
        for failure, count in self._retries.items():
            yield m.RETRIES, failure, count
        for phase, seconds in self._phase_seconds.items():
            yield m.LOOP_SECONDS, (phase,), seconds
        for labels, seconds in self._steps.items():
            yield m.COMPUTE_SECONDS, labels, seconds
        yield from self._unlabelled()

    def newest_ms(self, topic: str, partition: int) -> int | None:
        """Timestamp of the last record of ``topic`` that was applied here, epoch ms; None before the first."""
        return self.sources[topic].newest_ms.get(partition) if topic in self.sources else None

    def _unlabelled(self) -> Iterator[Reading]:
        yield m.BATCH_RECORDS, (), self._batch_records
        yield m.BATCH_BYTES, (), self._batch_bytes
        yield m.CHANGELOG_RECORDS, (), self._changelog_records
        yield m.CHANGELOG_BYTES, (), self._changelog_bytes
        for outcome, count in self._commits.items():
            yield m.COMMITS, (outcome,), count
        yield m.COMMIT_SECONDS, (), self._commit_seconds
        yield m.REBALANCES, (), self._rebalances
        yield m.REBALANCE_SECONDS, (), self._rebalance_seconds
        yield m.RECOVERY_RESTORED, (), self._restored_records
        yield m.RECOVERY_BYTES, (), self._restored_bytes


def _count_reasons(counts: Counter[tuple[str, str]], pairs: Sequence[tuple[str, str]]) -> None:
    for pair, count in Counter(pairs).items():
        counts[pair if pair in counts or len(counts) < MAX_REASONS else OTHER] += count

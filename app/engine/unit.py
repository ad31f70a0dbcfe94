"""One unit on its way: computed records, their output batches, the marker, and when each step was done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import msgspec

from app.engine.api import DeadLetterEncoder, Failure, LaneId, Record
from app.engine.compute import Computed
from app.engine.marker import Marker
from app.engine.producing import Ack, SendFailed
from app.engine.status import AGENT_STAGES, Stage, UnitReport
from app.engine.tracing import DurableUnit, RunTrace
from app.engine.writer import Addressed, TopicBatches, add_outputs
from app.topics import DEAD_LETTER_MAX_BYTES


class Unit:
    """A micro-batch between its computation and its RocksDB write. Times are ``perf_counter`` seconds."""

    __slots__ = (
        "_acks", "_on_acked", "_waiting", "changelog_bytes", "changelog_records", "computed", "computed_at", "fetched_at", "marker",
        "produced_at", "started", "visible_at",
    )  # fmt: skip

    def __init__(self, computed: Computed, started: float, fetched_at: float) -> None:
        self.computed = computed
        self.started = self.computed_at = self.produced_at = started
        self.visible_at = 0.0
        self.fetched_at = fetched_at
        self.marker = Marker()
        self.changelog_records = self.changelog_bytes = 0
        self._acks: list[tuple[str, Ack]] = []
        self._waiting = 1  # for watch()

    @property
    def topic(self) -> str:
        """The source topic; a unit has one."""
        return self.computed.topic

    @property
    def has_unwritten_dead_letters(self) -> bool:
        """Dead letters or retries of it are on their way to Kafka."""
        computed = self.computed
        return not self.visible_at and bool(computed.dead_letters or computed.aside or computed.retries)

    @property
    def is_acked(self) -> bool:
        """The broker has answered for every output (maybe with an error)."""
        return self._waiting == 0

    def watch(self, acks: list[tuple[str, Ack]], on_acked: Callable[[], None]) -> None:
        """Wait for ``acks`` (and where each comes from, a topic) without a task; ``on_acked`` is called when the last one is in."""
        self.mark_produced()
        self._acks, self._on_acked, self._waiting = acks, on_acked, len(acks) + 1
        for _, ack in acks:
            ack.add_done_callback(self._one_acked)
        self._one_acked(None)

    def leave_to_transaction(self, on_acked: Callable[[], None]) -> None:
        """Its outputs are sent when it becomes durable, and not before: it can from now on."""
        self._waiting = 0
        on_acked()

    def _one_acked(self, _: object) -> None:
        self._waiting -= 1
        if self._waiting == 0:
            self.mark_visible()
            self._on_acked()

    def mark_produced(self) -> None:
        """The outputs are encoded and with the Kafka client."""
        self.produced_at = time.perf_counter()

    def mark_visible(self) -> None:
        """Others can read the outputs from now on."""
        self.visible_at = time.perf_counter()

    def raise_if_failed(self) -> None:
        """Raise what the broker answered for an output that it did not take."""
        for topic, ack in self._acks:
            exc = ack.exception()
            if exc is not None:
                raise SendFailed(topic, exc) from exc

    def report(self, lane: LaneId, logged_at: float) -> UnitReport:
        """Facts for observers, after the RocksDB write; ``logged_at``: when the changelog was acknowledged."""
        done_at = time.perf_counter()
        computed = self.computed
        return UnitReport(
            lane=lane,
            topic=self.topic,
            records=len(computed.records),
            source_bytes=computed.source_bytes,
            emitted=computed.emitted,
            duplicates=computed.duplicates,
            dropped=computed.dropped,
            dead_letters=[(failure.stage, failure.reason) for _, failure in computed.dead_letters],
            retries=[(failure.stage, failure.reason) for _, failure, _ in computed.retries],
            timestamps=computed.timestamps,
            reached=self._reached(done_at, 1_000),
            seconds={
                "compute": self.computed_at - self.started,
                "outputs": self.visible_at - self.computed_at,
                "changelog": logged_at - self.visible_at,
                "store": done_at - logged_at,
            },
            changelog_records=self.changelog_records,
            changelog_bytes=self.changelog_bytes,
            late=computed.late,
            outputs=computed.output_counts,
            steps=computed.steps,
            traced=() if computed.trace is None else computed.trace.durable(self._for_trace(done_at)),
        )

    def _for_trace(self, done_at: float) -> DurableUnit:
        computed = self.computed
        failures = {record.offset: failure for record, failure in computed.dead_letters}
        failures |= {record.offset: failure for record, failure, _ in computed.retries}
        return DurableUnit(computed.records, failures, self._reached(done_at, 1_000_000_000), computed.steps)

    def _reached(self, done_at: float, per_s: int) -> dict[Stage, int]:
        """Wall clock of each stage, in units of which a second has so many: one reading of it, and the monotonic times since."""
        now = time.time_ns() * (per_s / 1_000_000_000)
        moments: dict[Stage, float] = {"fetched": self.fetched_at, "taken": self.started}
        moments |= {stage: self.computed.reached[step] for step, stage in AGENT_STAGES.items() if step in self.computed.reached}
        moments |= {"computed": self.computed_at, "produced": self.produced_at, "visible": self.visible_at, "durable": done_at}
        return {stage: int(now - (done_at - at) * per_s) for stage, at in moments.items()}


def output_batches(
    computed: Iterable[Computed], dead_letter: DeadLetterEncoder, lane: LaneId, limit: int, *, transactional: bool = False
) -> list[Addressed]:
    """Outputs and dead letters of consecutive units of one lane as RecordBatches, in order per partition."""
    now_ms = time.time_ns() // 1_000_000
    outputs, letters = TopicBatches(limit, transactional), TopicBatches(DEAD_LETTER_MAX_BYTES, transactional)
    for each in computed:
        trace, before = each.trace, outputs.counts()
        if trace is None:
            add_outputs(outputs, each.outputs, lane.partition, now_ms)
        else:
            add_outputs(outputs, each.outputs, lane.partition, now_ms, trace.for_outputs)
        each.output_counts = {topic: count - before.get(topic, 0) for topic, count in outputs.counts().items()}
        for record, failure in (*each.dead_letters, *each.aside):
            # Timestamp is the failure's, so that a dead letter topic can be searched by time of failure.
            letter = dead_letter(record, _traced(failure, record, trace), now_ms)
            letters.of(letter.topic, lane.partition).append(now_ms, letter.key, letter.value, list(letter.headers))
        for record, failure, retry in each.retries:
            waiting = dead_letter(record, _traced(failure, record, trace), now_ms, retry)
            letters.of(waiting.topic, lane.partition).append(now_ms, waiting.key, waiting.value, list(waiting.headers))
    return outputs.done() + letters.done()


def _traced(failure: Failure, record: Record, trace: RunTrace | None) -> Failure:
    traceparent = None if trace is None else trace.for_dead_letters.get(record.offset)
    return failure if traceparent is None else msgspec.structs.replace(failure, traceparent=traceparent)

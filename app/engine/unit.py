"""One unit on its way: computed records, their output batches, the marker, and when each step was done."""

from __future__ import annotations

import time
from collections.abc import Mapping

from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.api import DeadLetterEncoder, LaneId
from app.engine.compute import Computed
from app.engine.delivery import Ack
from app.engine.status import UnitReport
from app.engine.writer import TopicBatches, add_outputs
from app.topics import DEAD_LETTER_MAX_BYTES


class Unit:
    """A micro-batch between its computation and its RocksDB write. Times are ``perf_counter`` seconds."""

    __slots__ = ("acks", "changelog_bytes", "computed", "computed_at", "logged_at", "marker", "started", "visible_at", "visible_ms")

    def __init__(self, computed: Computed, started: float) -> None:
        self.computed = computed
        self.started = started
        self.computed_at = started
        self.visible_at = started
        self.logged_at = started
        self.visible_ms = 0
        self.marker = b""
        self.acks: list[Ack] = []
        self.changelog_bytes = 0

    def output_batches(self, dead_letter: DeadLetterEncoder, limit: int) -> Mapping[str, list[BatchBuilder]]:
        """Outputs and dead letters of this unit as RecordBatches per topic."""
        now_ms = time.time_ns() // 1_000_000
        outputs = TopicBatches(limit)
        add_outputs(outputs, self.computed.outputs, now_ms)
        letters = TopicBatches(DEAD_LETTER_MAX_BYTES)
        for record, failure in self.computed.dead_letters:
            # Timestamp is the failure's, so that a dead letter topic can be searched by time of failure.
            letter = dead_letter(record, failure, now_ms)
            letters.of(letter.topic).append(now_ms, letter.key, letter.value, list(letter.headers))
        return {**outputs.done(), **letters.done()}

    def mark_visible(self) -> None:
        """Every output is acknowledged."""
        self.visible_at = time.perf_counter()
        self.visible_ms = time.time_ns() // 1_000_000

    def report(self, lane: LaneId) -> UnitReport:
        """Facts for observers, after the RocksDB write."""
        done_at = time.perf_counter()
        computed = self.computed
        return UnitReport(
            lane=lane,
            topic=computed.records[0].topic,
            records=len(computed.records),
            source_bytes=sum(len(record.value or b"") for record in computed.records),
            emitted=computed.emitted,
            duplicates=computed.duplicates,
            dropped=computed.dropped,
            dead_letters=[(failure.stage, failure.reason) for _, failure in computed.dead_letters],
            timestamps=[record.timestamp for record in computed.records],
            done_ms=time.time_ns() // 1_000_000,
            visible_ms=self.visible_ms,
            seconds={
                "compute": self.computed_at - self.started,
                "outputs": self.visible_at - self.computed_at,
                "changelog": self.logged_at - self.visible_at,
                "store": done_at - self.logged_at,
            },
            changelog_records=len(computed.writes),
            changelog_bytes=self.changelog_bytes,
        )

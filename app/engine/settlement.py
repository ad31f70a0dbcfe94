"""What makes consecutive units of one lane durable: their writes and the newest marker, as one changelog batch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from aiokafka.producer.message_accumulator import BatchBuilder

from app.engine.marker import MARKER_KEY, REPAIR_KEY, Marker, encode_keys, encode_marker
from app.engine.unit import Unit
from app.engine.writer import changelog_batch


@dataclass(slots=True)
class Settlement:
    """Writes on their way into changelog and RocksDB: those of ``units``, or a repair."""

    units: list[Unit]
    marker: Marker
    writes: dict[bytes, bytes | None]
    """raw key to raw value, None for a delete; the marker last"""
    repairs_left: list[bytes] = field(default_factory=list)
    """keys that a later repair must write again"""

    @classmethod
    def of(cls, units: list[Unit]) -> Settlement:
        """At least one unit, in order."""
        marker = units[-1].marker
        writes: dict[bytes, bytes | None] = {}
        for unit in units:
            writes |= unit.computed.writes
        writes[MARKER_KEY] = encode_marker(marker)
        return cls(units, marker, writes)

    @classmethod
    def repair(cls, values: Mapping[bytes, bytes | None], left: list[bytes], marker: Marker) -> Settlement:
        """Write ``values`` again as they are, so that they and no zombie's are the newest in the changelog."""
        debt = {REPAIR_KEY: encode_keys(left) if left else None}
        return cls([], marker, {**values, **debt, MARKER_KEY: encode_marker(marker)}, left)

    @property
    def next_offsets(self) -> Mapping[str, int | None]:
        """Source topic to what the group's offset may become; None: nothing of it was applied yet (ticks)."""
        return {unit.topic: self.marker.next_offsets.get(unit.topic) for unit in self.units}

    @property
    def source_offset(self) -> int:
        """Last source offset that is in the state; -1 when none is."""
        return max(self.marker.next_offsets.values(), default=0) - 1

    def current_trace(self) -> AbstractContextManager[object]:
        """Within, what is written elsewhere belongs to the trace of the newest unit that is recorded in one."""
        traces = [unit.computed.trace for unit in self.units if unit.computed.trace is not None]
        return traces[-1].current() if traces else nullcontext()

    def mark_produced(self) -> None:
        """The outputs are with the Kafka client, within a transaction."""
        for unit in self.units:
            unit.mark_produced()

    def mark_visible(self) -> None:
        """Outputs can be read from now on (they were held back until a transaction was committed)."""
        for unit in self.units:
            unit.mark_visible()

    def changelog_batch(self, topic: str, limit: int, *, transactional: bool = False) -> BatchBuilder:
        """The writes as one RecordBatch of at most ``limit`` bytes."""
        batch = changelog_batch(topic, self.writes, time.time_ns() // 1_000_000, limit, transactional=transactional)
        if self.units:
            self.units[-1].changelog_records, self.units[-1].changelog_bytes = len(self.writes), batch.size()
        return batch

    def stamp(self, base_offset: int) -> int:
        """Changelog offset of the last record, the marker."""
        return base_offset + len(self.writes) - 1

"""How far a lane is: the next offset per source topic, the ledger, and what of it is durable."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from app.engine.api import Record
from app.engine.compute import Computed
from app.engine.marker import Marker


class Progress:
    """Positions and outcomes of one lane. ``computed`` runs ahead of ``durable`` by the units in flight."""

    def __init__(self, marker: Marker, changelog_offset: int) -> None:
        self.durable_marker = marker
        self.changelog_offset = changelog_offset
        self.changelog_end = changelog_offset + 1
        """where our next changelog batch must begin; further on than ``changelog_offset`` when records were removed"""
        self.committed: dict[str, int] = {}
        self.last_progress = time.monotonic()
        self.last_commit = time.monotonic()
        self._computed = marker
        self._read: dict[str, int] = dict(marker.next_offsets)
        self._starts: dict[str, int] = {}

    def next_offset(self, topic: str) -> int:
        """The next source offset to apply, durable; -1 when nothing was ever applied."""
        return self.durable_marker.next_offsets.get(topic, -1)

    def start_at(self, topic: str, offset: int) -> None:
        """Records of ``topic`` below ``offset`` are not wanted."""
        self._read[topic] = offset
        self._starts[topic] = offset

    def start_offset(self, topic: str) -> int:
        """Where this lane began to read ``topic``; -1 before."""
        return self._starts.get(topic, -1)

    def is_applied(self, topic: str, offset: int) -> bool:
        """The record is durable, or below where this lane began to read."""
        return offset < max(self.next_offset(topic), self.start_offset(topic))

    def last_read(self, topic: str) -> int:
        """The last source offset that was taken; -1 for none."""
        return self._read.get(topic, 0) - 1

    def unseen(self, records: Sequence[Record]) -> Sequence[Record]:
        """``records`` without those already taken (fetched again after a crash or seek)."""
        if not records:
            return records
        topic = records[0].topic
        wanted = self._read.get(topic, -1)
        if records[0].offset < wanted:
            records = [record for record in records if record.offset >= wanted]
        if records:
            self._read[topic] = records[-1].offset + 1
        return records

    def advance(self, computed: Computed) -> Marker:
        """The marker of the next unit."""
        before, applied = self._computed, {}
        if computed.records:
            applied = {computed.topic: computed.records[-1].offset + 1}
        self._computed = Marker(
            next_offsets=before.next_offsets | applied,
            committed=dict(self.committed),
            consumed=before.consumed + len(computed.records),
            emitted=before.emitted + computed.emitted,
            duplicates=before.duplicates + computed.duplicates,
            dead_lettered=before.dead_lettered + len(computed.dead_letters),
            retried=before.retried + len(computed.retries),
            dropped=before.dropped + computed.dropped,
        )
        return self._computed

    def durable(self, marker: Marker, changelog_offset: int) -> int:
        """Everything up to ``marker`` is durable at ``changelog_offset``; returns the changelog offset before."""
        previous, self.changelog_offset = self.changelog_offset, changelog_offset
        self.changelog_end = changelog_offset + 1
        self.durable_marker = marker
        self.last_progress = time.monotonic()
        return previous

    def commit(self, offsets: Mapping[str, int]) -> None:
        """The group's offsets (next to read, by source topic) are committed."""
        self.committed.update(offsets)
        self.last_commit = time.monotonic()

"""The engine's own keys beside an agent's state, and the marker record that makes a unit atomic.

Every unit's changelog RecordBatch ends in the marker; the broker appends a RecordBatch whole or not at
all, so a marker in the changelog proves that the unit's state is there too. Engine keys start with NUL,
which no view prefix may.
"""

from __future__ import annotations

import msgspec

from app.engine.status import Ledger

#: In changelog and RocksDB: which source offsets are applied, and the ledger. Always last in its unit.
MARKER_KEY = b"\0veltrix/marker"
#: In RocksDB only: the last changelog offset it contains, 8 bytes big-endian.
OFFSET_KEY = b"\0veltrix/offset"


class Marker(msgspec.Struct, array_like=True, frozen=True):
    """What is applied, per source topic of the lane. New fields go to the end, with defaults."""

    next_offsets: dict[str, int] = {}
    """topic -> next source offset to apply"""
    committed: dict[str, int] = {}
    """topic -> offset the group had committed when this was written; a smaller one at the broker is a rewind"""
    consumed: int = 0
    emitted: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    retried: int = 0
    dropped: int = 0

    def ledger(self) -> Ledger:
        """The cumulative outcomes in this marker."""
        return Ledger(self.consumed, self.emitted, self.duplicates, self.dead_lettered, self.retried, self.dropped)


encode_marker = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Marker)


def decode_marker(raw: bytes | None) -> Marker:
    """The marker of a table; an empty one for a table that never applied anything."""
    return Marker() if raw is None else _decoder.decode(raw)


def encode_offset(offset: int) -> bytes:
    """Changelog offset as OFFSET_KEY holds it."""
    return offset.to_bytes(8, "big")


def decode_offset(raw: bytes | None) -> int:
    """Inverse of :func:`encode_offset`; -1 when nothing was ever written."""
    return -1 if raw is None else int.from_bytes(raw, "big")

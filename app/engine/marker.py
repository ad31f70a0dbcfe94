"""The engine's own keys beside an agent's state, and the marker record that makes a unit atomic.

Every unit's changelog RecordBatch ends in the marker; the broker appends a RecordBatch whole or not at
all, so a marker in the changelog proves that the unit's state is there too. Engine keys start with NUL,
which no view prefix may.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from app.engine.status import Ledger

#: In changelog and RocksDB: which source offsets are applied, and the ledger. Always last in its unit.
MARKER_KEY = b"\0veltrix/marker"
#: In RocksDB only: the last changelog offset it contains, 8 bytes big-endian, signed (-1: nothing yet).
OFFSET_KEY = b"\0veltrix/offset"
#: In RocksDB only: Kafka's id of the changelog topic that it was restored from or written to, 16 bytes.
CHANGELOG_ID_KEY = b"\0veltrix/changelog-id"
#: In changelog and RocksDB: Kafka's ids of the source topics whose offsets the marker holds.
SOURCE_IDS_KEY = b"\0veltrix/source-ids"
#: In RocksDB only: keys that a worker taken for dead wrote behind our back; the lane writes them again when it opens.
REPAIR_KEY = b"\0veltrix/repair"


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

    def is_behind(self, other: Marker) -> bool:
        """Some source topic is applied less far here than in ``other``."""
        return any(self.next_offsets.get(topic, -1) < offset for topic, offset in other.next_offsets.items())

    def ledger(self) -> Ledger:
        """The cumulative outcomes in this marker."""
        return Ledger(self.consumed, self.emitted, self.duplicates, self.dead_lettered, self.retried, self.dropped)


encode_marker = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Marker)


def decode_marker(raw: bytes | None) -> Marker:
    """The marker of a table; an empty one for a table that never applied anything."""
    return Marker() if raw is None else _decoder.decode(raw)


def encode_keys(keys: Iterable[bytes]) -> bytes:
    """Keys as REPAIR_KEY holds them."""
    return msgspec.msgpack.encode(sorted(keys))


def decode_keys(raw: bytes | None) -> set[bytes]:
    """Inverse of :func:`encode_keys`."""
    return set() if raw is None else set(msgspec.msgpack.decode(raw, type=list[bytes]))


def encode_offset(offset: int) -> bytes:
    """Changelog offset as OFFSET_KEY holds it."""
    return offset.to_bytes(8, "big", signed=True)


def decode_offset(raw: bytes | None) -> int:
    """Inverse of :func:`encode_offset`; -1 when nothing was ever written."""
    return -1 if raw is None else int.from_bytes(raw, "big", signed=True)


def encode_topic_ids(ids: Mapping[str, bytes]) -> bytes:
    """Topic to id (16 bytes) as SOURCE_IDS_KEY holds them."""
    return msgspec.msgpack.encode(dict(sorted(ids.items())))


def decode_topic_ids(raw: bytes | None) -> dict[str, bytes]:
    """Inverse of :func:`encode_topic_ids`; empty for a table that was never stamped."""
    return {} if raw is None else msgspec.msgpack.decode(raw, type=dict[str, bytes])

"""Names and layout of what Redis holds.

    {app_id}:cover:{<agent>-<partition>}                     position, written at, source   (24 bytes)
    {app_id}:lookup:{<agent>-<partition>}:<resource>:<key>   stamp, source offset, value    (16 bytes + raw value)

Numbers are signed 8-byte big-endian. The braces are a Redis Cluster hash tag: all keys of a lane share a slot, so one
script may touch them together. While a lane is rebuilt its cover holds a token instead of a position.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from app.engine.api import LaneId
from app.lookups.api import LookupView

_PAIR: Final = struct.Struct(">qq")
_COVER: Final = struct.Struct(">qqq")
STAMP_BYTES: Final = 8
HEAD_BYTES: Final = _PAIR.size
#: Cannot begin a position: as a number it would be beyond any offset.
_TOKEN: Final = b"rebuild:"


class Cover(NamedTuple):
    """Everything up to changelog offset ``position`` is in Redis, since ``written_ms`` (epoch ms).

    So is everything that came of source records up to ``source_offset``, -1 when that is not known.
    """

    position: int
    written_ms: int
    source_offset: int = -1

    def pack(self) -> bytes:
        """As Redis holds it."""
        return _COVER.pack(*self)


def unpack_cover(raw: bytes | None) -> Cover | None:
    """None when the lane is not covered: key absent, a rebuild under way, or not ours."""
    if raw is None or len(raw) < HEAD_BYTES or raw.startswith(_TOKEN):
        return None
    # One in the middle of a write is longer, one of an earlier build shorter.
    return Cover(*(_COVER.unpack(raw) if len(raw) == _COVER.size else _PAIR.unpack_from(raw)))


def rebuild_token() -> bytes:
    """A cover that covers nothing and equals no other."""
    return _TOKEN + os.urandom(16)


def partial_covers(cover: bytes, count: int) -> list[bytes]:
    """Covers that still say ``cover`` but tell apart the steps of one write: step n requires step n-1 to have run."""
    write = os.urandom(6)
    return [b"%b%b%b" % (cover[:HEAD_BYTES], write, step.to_bytes(4, "big")) for step in range(count)]


def pack_head(stamp: int, source_offset: int) -> bytes:
    """What precedes a value."""
    return _PAIR.pack(stamp, source_offset)


def unpack_value(raw: bytes) -> tuple[int, int, bytes]:
    """Stamp, source offset and the raw state value.

    Raises:
        struct.error: shorter than its head.
    """
    stamp, source_offset = _PAIR.unpack_from(raw)
    return stamp, source_offset, raw[HEAD_BYTES:]


class LaneKeys:
    """Redis keys of one lane."""

    __slots__ = ("cover", "pattern", "prefixes")

    def __init__(self, app_id: str, lane: LaneId, views: Iterable[LookupView]) -> None:
        tag = f"{{{lane}}}"
        self.cover = f"{app_id}:cover:{tag}".encode()
        self.pattern = f"{app_id}:lookup:{tag}:*".encode()
        #: (state key prefix, its length, Redis key prefix) of each view of this lane's agent
        self.prefixes = tuple(
            (view.prefix, len(view.prefix), f"{app_id}:lookup:{tag}:{view.resource}:".encode())
            for view in views
            if view.agent == lane.agent
        )

    def of(self, raw_key: bytes) -> bytes | None:
        """The Redis key of a state key; None when no lookup serves it."""
        for prefix, length, base in self.prefixes:
            if raw_key.startswith(prefix):
                return base + raw_key[length:]
        return None

"""Newest first over all partitions of a queue: which offsets to read next, and what makes the page.

Pure: told what was read, it says what it wants. Within a partition offsets give the order, between partitions Kafka's
timestamps. The cursor is the offset below which each partition still holds unseen records, so pages neither overlap
nor skip, also while new dead letters arrive.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from app.dead_letters.api import DeadLetterRecord, Filters, InvalidQuery
from app.dead_letters.topic_log import Window

MIN_WINDOW: Final = 8
MAX_WINDOW: Final = 1000


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    queue: str
    below: dict[int, int]


def encode_cursor(queue: str, below: Mapping[int, int]) -> str:
    """Opaque text; only :func:`decode_cursor` reads it."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(_Cursor(queue, dict(below)))).decode().rstrip("=")


def decode_cursor(queue: str, text: str) -> dict[int, int]:
    """Partition -> offset below which to go on.

    Raises:
        InvalidQuery: not a cursor of this queue.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.msgpack.decode(raw, type=_Cursor)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise InvalidQuery("cursor: give next_cursor of the page before, unchanged") from None
    if cursor.queue != queue:
        raise InvalidQuery(f"cursor: it belongs to queue {cursor.queue!r}, not {queue!r}")
    return cursor.below


class _Stream:
    """One partition, read downwards. ``loaded``: lowest offset read so far; ``buffer``: read, not yet given out."""

    __slots__ = ("buffer", "floor", "loaded")

    def __init__(self, window: Window) -> None:
        self.floor, self.loaded = window
        self.buffer: list[DeadLetterRecord] = []

    @property
    def has_unread(self) -> bool:
        return self.loaded > self.floor

    @property
    def below(self) -> int:
        return self.buffer[-1].offset + 1 if self.buffer else self.loaded


class Scan:
    """One page in the making.

    Args:
        ranges: per partition the offsets that may be looked at.
        limit: records of a full page.
        filters: what a record must match.
        max_scanned: records to look at before giving up for this page.
    """

    def __init__(self, ranges: Mapping[int, Window], limit: int, filters: Filters, max_scanned: int) -> None:
        self._streams = {number: _Stream(window) for number, window in ranges.items()}
        self._limit, self._filters, self._max_scanned = limit, filters, max_scanned
        self._window = max(MIN_WINDOW, 2 * limit // max(1, len(self._streams)))  # a fair share, doubled
        self.found: list[DeadLetterRecord] = []
        self.scanned = 0

    def wanted(self) -> dict[int, Window]:
        """Offsets to read next, per partition; empty when the page is done."""
        if len(self.found) >= self._limit or self.scanned >= self._max_scanned:
            return {}
        dry = {number: stream for number, stream in self._streams.items() if not stream.buffer and stream.has_unread}
        windows = {n: Window(max(stream.floor, stream.loaded - self._window), stream.loaded) for n, stream in dry.items()}
        self._window = min(MAX_WINDOW, self._window * 2)  # few matches: larger steps
        return windows

    def feed(self, number: int, window: Window, records: Iterable[DeadLetterRecord]) -> None:
        """What was read of ``window`` of one partition, in offset order."""
        stream = self._streams[number]
        stream.buffer = list(records)
        stream.loaded = window.begin

    def merge(self) -> None:
        """Move records into the page, until it is full or the order of the next one is not known yet."""
        streams = self._streams.values()
        while len(self.found) < self._limit and not any(not s.buffer and s.has_unread for s in streams):
            newest = max((s for s in streams if s.buffer), key=lambda s: s.buffer[-1].timestamp_ms, default=None)
            if newest is None:
                return
            record = newest.buffer.pop()
            self.scanned += 1
            if self._filters.match(record):
                self.found.append(record)

    def below(self) -> dict[int, int] | None:
        """Where the next page begins, per partition; None when everything was seen."""
        rest = {number: stream.below for number, stream in self._streams.items()}
        return rest if any(below > self._streams[number].floor for number, below in rest.items()) else None

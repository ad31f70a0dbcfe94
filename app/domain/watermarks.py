"""Watermarks: "no event before this time is expected any more", so what ends at or before it may be closed.

An event at exactly the watermark is on time; one before it is late, which costs it nothing until its window or
session has closed. A watermark never goes back, neither by an old event nor by a restart: it is stored in the same
unit as the state that was closed by it.

One device with a fast clock must not make everybody else late. An event moves the watermark at most to its broker
time plus ``max_lead_ms`` (default 0), whatever its own time, which validation lets be minutes ahead. So an on-time
event is ahead of the watermark by at most ``out_of_orderness_ms`` plus that allowance: see ``reach_ms``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

#: Of a partition that has shown nothing yet: before every event time, and still a 64-bit integer.
NO_WATERMARK: Final = -(2**62)


class LatePolicy(StrEnum):
    """What becomes of an event that is too late for every result that it belongs to."""

    #: Left out of that output and counted; the event itself is processed as ever.
    DROP = "drop"
    #: Parked with the disposition ``late``.
    DEAD_LETTER = "dead_letter"


@dataclass(frozen=True, slots=True)
class WatermarkPolicy:
    """How far a watermark stays behind. All in ms; ``idle_ms`` 0 means that a silent source holds it for ever."""

    out_of_orderness_ms: int = 30_000
    max_lead_ms: int = 0
    idle_ms: int = 0

    def reach_ms(self, max_ahead_ms: int) -> int:
        """How far ahead of the watermark an accepted event can be: bounds the state that waits to be closed.

        Args:
            max_ahead_ms: how far ahead of its broker time validation lets an event be.
        """
        return self.out_of_orderness_ms + max(0, max_ahead_ms - self.max_lead_ms)


class WatermarkState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is stored of one source: UTC epoch ms, ``active_ms`` in broker time."""

    watermark_ms: int = NO_WATERMARK
    active_ms: int = NO_WATERMARK


class Watermark:
    """The watermark of one source partition, in the working memory of a batch."""

    __slots__ = ("_bound_ms", "_idle_ms", "_lead_ms", "active_ms", "watermark_ms")

    def __init__(self, policy: WatermarkPolicy, stored: WatermarkState = WatermarkState()) -> None:  # noqa: B008 - immutable
        self._bound_ms = policy.out_of_orderness_ms
        self._lead_ms = policy.max_lead_ms
        self._idle_ms = policy.idle_ms
        self.watermark_ms = stored.watermark_ms
        #: Broker time of the latest record.
        self.active_ms = stored.active_ms

    @property
    def lag_ms(self) -> int:
        """How far behind the clock an idle advance leaves it."""
        return self._idle_ms + self._bound_ms

    def observe(self, event_time_ms: int, received_ms: int) -> int:
        """Take one valid event in; the watermark after it, which is the one to fold this event with.

        Args:
            received_ms: the record's broker time, as limits measure it (``times.broker_time_ms``).
        """
        if received_ms > self.active_ms:
            self.active_ms = received_ms
        limit_ms = received_ms + self._lead_ms
        candidate_ms = (event_time_ms if event_time_ms < limit_ms else limit_ms) - self._bound_ms  # noqa: FURB136 - hot
        if candidate_ms > self.watermark_ms:
            self.watermark_ms = candidate_ms
        return self.watermark_ms

    def advance_idle(self, now_ms: int) -> bool:
        """Move a silent partition's watermark on, as if an event had come ``idle_ms`` ago; whether it moved.

        The caller must know that the partition is read to its end: a partition that is behind is not idle. It must
        store the snapshot before, or in the same unit as, anything that it closes by the new value: a restart would
        otherwise fold the next event with an older watermark than its results were closed by.
        """
        if self._idle_ms <= 0 or self.active_ms == NO_WATERMARK or now_ms - self.active_ms < self._idle_ms:
            return False
        candidate_ms = now_ms - self._idle_ms - self._bound_ms
        if candidate_ms <= self.watermark_ms:
            return False
        self.watermark_ms = candidate_ms
        return True

    def snapshot(self) -> WatermarkState:
        """What to store."""
        return WatermarkState(self.watermark_ms, self.active_ms)

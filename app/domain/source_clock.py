"""What an agent knows of time in one partition of its source: the watermark, and whom it was told."""

from __future__ import annotations

from typing import Final

import msgspec

from app.domain.watermarks import NO_WATERMARK, Watermark, WatermarkPolicy, WatermarkState

VERSION: Final = 1
#: Downstream hears of the watermark with every record anyway; without any, when it has moved this far.
ANNOUNCE_MS: Final = 500
#: An idle watermark moves in steps of this part of the idle time: each is a write, and a record to everyone.
IDLE_STEPS: Final = 6


class SourceClockState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """As it is stored, with every unit: so all but one time are small differences."""

    version: int = VERSION
    watermark_ms: int = NO_WATERMARK
    #: Broker time of the latest record, less the watermark.
    active_ms: int = 0
    #: How far the watermark has moved since everyone was told.
    untold_ms: int = 0


class SourceClock:
    """The clock of one partition, in the working memory of a batch."""

    __slots__ = ("_announced_ms", "_idle_ms", "watermark")

    def __init__(self, policy: WatermarkPolicy, stored: SourceClockState | None) -> None:
        stored = stored or SourceClockState()
        watermark_ms = stored.watermark_ms
        self.watermark = Watermark(policy, WatermarkState(watermark_ms, watermark_ms + stored.active_ms))
        self._idle_ms = policy.idle_ms
        self._announced_ms = watermark_ms - stored.untold_ms

    @property
    def watermark_ms(self) -> int:
        """No event before it is expected any more."""
        return self.watermark.watermark_ms

    @property
    def told_ms(self) -> int:
        """The watermark that everyone was told last."""
        return self._announced_ms

    def idle(self, now_ms: int) -> bool:
        """The partition is read to its end at ``now_ms``; whether the clock has changed and is to be stored."""
        watermark = self.watermark
        if not self._idle_ms:
            return False
        if watermark.active_ms == NO_WATERMARK:
            watermark.active_ms = now_ms  # it never had a record: silent from now on
            return True
        if now_ms - self._idle_ms - watermark.active_ms < 0 or now_ms < self._next_idle_ms():
            return False
        return watermark.advance_idle(now_ms)

    def announce(self) -> bool:
        """Whether everyone downstream is to be told; they count as told from then on."""
        is_due = self.watermark_ms >= self._announced_ms + ANNOUNCE_MS
        if is_due:
            self._announced_ms = self.watermark_ms
        return is_due

    def snapshot(self) -> SourceClockState:
        """What to store."""
        watermark_ms = self.watermark_ms
        return SourceClockState(VERSION, watermark_ms, self.watermark.active_ms - watermark_ms, watermark_ms - self._announced_ms)

    def _next_idle_ms(self) -> int:
        """When an idle step is due: the value that it would give must be a step ahead."""
        return self.watermark_ms + self.watermark.lag_ms + self._idle_ms // IDLE_STEPS

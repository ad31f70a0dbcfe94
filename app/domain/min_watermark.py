"""One watermark of several sources: the least of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from app.domain.watermarks import NO_WATERMARK, WatermarkPolicy, WatermarkState

#: After every event time.
ALWAYS: Final = 2**62


class MinWatermarkState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is stored of a minimum: its value, and each upstream that is known or waited for."""

    watermark_ms: int = NO_WATERMARK
    upstreams: dict[int, WatermarkState] = {}


class MinWatermark:
    """The least watermark of several upstream partitions.

    One that has not reported holds it back at ``NO_WATERMARK``. With ``idle_ms``, an upstream that is silent for so
    long is left out (when all are: the greatest of theirs counts) and, when it comes back behind the others, its
    events are late.
    """

    __slots__ = ("_idle_ms", "_upstreams", "watermark_ms")

    def __init__(
        self,
        policy: WatermarkPolicy,
        upstreams: Iterable[int],
        stored: MinWatermarkState = MinWatermarkState(),  # noqa: B008 - immutable
    ) -> None:
        self._idle_ms = policy.idle_ms
        self.watermark_ms = stored.watermark_ms
        self._upstreams = {number: stored.upstreams.get(number, WatermarkState()) for number in upstreams}

    def observe(self, upstream: int, watermark_ms: int, received_ms: int) -> int:
        """Take in what one upstream says of itself; the minimum after it.

        Raises:
            KeyError: this upstream was not announced.
        """
        known = self._upstreams[upstream]
        if watermark_ms > known.watermark_ms or received_ms > known.active_ms:
            merged = WatermarkState(max(watermark_ms, known.watermark_ms), max(received_ms, known.active_ms))
            self._upstreams[upstream] = merged
            if merged.watermark_ms > self.watermark_ms >= known.watermark_ms:
                self._raise_to(min(state.watermark_ms for state in self._upstreams.values()))
        return self.watermark_ms

    def others(self, upstream: int) -> int:
        """The least of all but one upstream; with a single one, after every event time.

        Raises:
            KeyError: this upstream was not announced.
        """
        self._upstreams[upstream]
        return min((state.watermark_ms for number, state in self._upstreams.items() if number != upstream), default=ALWAYS)

    def advance_idle(self, now_ms: int) -> bool:
        """Leave silent upstreams out; whether the minimum moved. The caller's duties are those of ``Watermark.advance_idle``.

        An upstream that never reported is silent since the first call.
        """
        if self._idle_ms <= 0 or not self._upstreams:
            return False
        for number, state in self._upstreams.items():
            if state.active_ms == NO_WATERMARK:
                self._upstreams[number] = WatermarkState(state.watermark_ms, now_ms)
        active = [state.watermark_ms for state in self._upstreams.values() if now_ms - state.active_ms < self._idle_ms]
        return self._raise_to(min(active) if active else max(state.watermark_ms for state in self._upstreams.values()))

    def snapshot(self) -> MinWatermarkState:
        """What to store."""
        return MinWatermarkState(self.watermark_ms, dict(self._upstreams))

    def _raise_to(self, candidate_ms: int) -> bool:
        moved = candidate_ms > self.watermark_ms
        if moved:
            self.watermark_ms = candidate_ms
        return moved

"""What a downstream partition knows of its upstream partitions: how far it has applied each, and their watermarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from app.domain.activities import Activity, ActivityBatch
from app.domain.min_watermark import MinWatermark, MinWatermarkState
from app.domain.watermarks import WatermarkPolicy

VERSION: Final = 1
#: An upstream that is silent tells its own idle advance: here nobody is ever left out.
_NEVER_IDLE: Final = WatermarkPolicy()


class UpstreamsState(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """As it is stored. ``applied``: the highest offset per upstream partition."""

    version: int = VERSION
    watermark: MinWatermarkState = MinWatermarkState()
    applied: dict[int, int] = {}


class UnknownUpstream(Exception):
    """A record names an upstream partition that this deployment does not have."""

    reason: Final = "unknown_upstream"

    def __init__(self, upstream: int, partitions: int) -> None:
        super().__init__(f"upstream partition {upstream} of {partitions}")
        self.upstream = upstream


class Upstreams:
    """In the working memory of a batch.

    Args:
        partitions: how many upstream partitions there are.
    """

    __slots__ = ("_applied", "_partitions", "_watermark")

    def __init__(self, partitions: int, stored: UpstreamsState | None) -> None:
        stored = stored or UpstreamsState()
        self._partitions = partitions
        self._watermark = MinWatermark(_NEVER_IDLE, range(partitions), stored.watermark)
        self._applied = dict(stored.applied)

    @property
    def watermark_ms(self) -> int:
        """The least of all upstream partitions."""
        return self._watermark.watermark_ms

    def applied(self, upstream: int) -> int:
        """The highest offset that was applied of an upstream partition; -1 for none."""
        return self._applied.get(upstream, -1)

    def take(self, batch: ActivityBatch) -> Iterator[tuple[str, Activity, int]]:
        """What is new in ``batch``: key function's name, activity, and the watermark to fold it with.

        Raises:
            UnknownUpstream: nothing of it was taken.
        """
        upstream = batch.upstream
        if not 0 <= upstream < self._partitions:
            raise UnknownUpstream(upstream, self._partitions)
        applied, others_ms, floor_ms = self._applied.get(upstream, -1), self._watermark.others(upstream), self.watermark_ms
        newest = applied
        for key, activities in batch.activities.items():
            for activity in activities:
                if activity.offset > applied:
                    least_ms = min(others_ms, activity.watermark_ms)
                    yield key, activity, max(floor_ms, least_ms)
                    newest = max(newest, activity.offset)
        self._applied[upstream] = newest
        self._watermark.observe(upstream, batch.watermark_ms, 0)

    def snapshot(self) -> UpstreamsState:
        """What to store."""
        return UpstreamsState(VERSION, self._watermark.snapshot(), self._applied)

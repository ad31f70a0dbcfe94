"""What a downstream partition knows of its upstream partitions: how far it has applied each, and their watermarks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from app.domain.activities import Activity, ActivityBatch, KeyOf
from app.domain.min_watermark import MinWatermark, MinWatermarkState
from app.domain.watermarks import WatermarkPolicy

VERSION: Final = 1
#: An upstream that is silent tells its own idle advance: here nobody is ever left out.
_NEVER_IDLE: Final = WatermarkPolicy()


Timed = tuple[Activity, int, int]
"""Activity, its time, the watermark to fold it with"""
Taken = dict[str, dict[str, list[Timed]]]
"""By the name of the key function, then by key"""


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


def _nobody(_: Activity) -> None:
    return None


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

    def take(self, batch: ActivityBatch, keys: Mapping[str, KeyOf], into: Taken) -> bool:
        """Add what is new in ``batch`` to ``into``; whether it was new at all (a watermark alone is).

        Args:
            keys: key functions by name; activities of another one are nobody's any more.

        Raises:
            UnknownUpstream: nothing of it was taken.
        """
        upstream = batch.upstream
        if not 0 <= upstream < self._partitions:
            raise UnknownUpstream(upstream, self._partitions)
        applied = newest = self._applied.get(upstream, -1)
        others_ms, floor_ms = self._watermark.others(upstream), self.watermark_ms
        for name, activities in batch.activities.items():
            key_of, by_key = keys.get(name, _nobody), into.setdefault(name, {})
            for activity in activities:
                offset = activity.offset
                if offset <= applied:
                    continue
                newest = max(newest, offset)
                key = key_of(activity)
                if key is not None:
                    timed = (activity, activity.time_ms, max(floor_ms, min(others_ms, activity.watermark_ms)))
                    by_key.setdefault(key, []).append(timed)
        self._applied[upstream] = newest
        self._watermark.observe(upstream, batch.watermark_ms, 0)
        return newest > applied or not batch.activities

    def snapshot(self) -> UpstreamsState:
        """What to store."""
        return UpstreamsState(VERSION, self._watermark.snapshot(), self._applied)

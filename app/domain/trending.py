"""The leaders of the newest closed windows of one partition: small enough to be kept and served whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from app.domain.watermarks import NO_WATERMARK

VERSION: Final = 1
#: Leaders kept per partition: more than anybody may ask for, so that the leaders of all partitions are exact.
MOST: Final = 100


class Trending(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Keys with their scores, the highest first, of the windows ``[start_ms, end_ms)``."""

    version: int = VERSION
    start_ms: int = NO_WATERMARK
    end_ms: int = NO_WATERMARK
    leaders: list[tuple[str, int]] = []


def top_of(known: Trending, closed: Iterable[tuple[int, int, str, int]]) -> Trending:
    """The leaders after more windows have closed: start, end, key, score of each. A window that comes again replaces itself."""
    start_ms, end_ms, scores = known.start_ms, known.end_ms, dict(known.leaders)
    for window_ms, window_end_ms, key, score in closed:
        if window_ms > start_ms:
            start_ms, end_ms, scores = window_ms, window_end_ms, {}
        if window_ms == start_ms:
            scores[key] = score
    return Trending(VERSION, start_ms, end_ms, _leaders(scores.items(), MOST))


def merge(parts: Iterable[Trending], limit: int) -> Trending:
    """The leaders of all partitions: of the newest windows that any of them has closed."""
    known = list(parts)
    newest = max(known, key=lambda part: part.start_ms, default=Trending())
    scores = [pair for part in known if part.start_ms == newest.start_ms for pair in part.leaders]
    return Trending(VERSION, newest.start_ms, newest.end_ms, _leaders(scores, limit))


def _leaders(scores: Iterable[tuple[str, int]], limit: int) -> list[tuple[str, int]]:
    """Ties by key, so that equal states are equal bytes; who has nothing is no leader."""
    return sorted(((key, score) for key, score in scores if score > 0), key=lambda pair: (-pair[1], pair[0]))[:limit]

"""Latency histograms: HDR, 1 us to 60 s, three significant digits; every value is counted, none is clipped."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hdrh.histogram import HdrHistogram

LOWEST_US, HIGHEST_US, DIGITS = 1, 60_000_000, 3


class LatencyOutOfRangeError(Exception):
    """A latency is negative or above 60 s: the clocks differ or the run hangs, its percentiles would be wrong."""

    def __init__(self, value_us: int) -> None:
        self.value_us = value_us
        super().__init__(f"Latency of {value_us} us is outside 0..{HIGHEST_US} us")


class Percentiles(msgspec.Struct, frozen=True):
    """Summary of a histogram in milliseconds. ``p999_ms`` is None below 10,000 samples: too few to mean anything."""

    samples: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float | None
    max_ms: float


def histogram_of(values_us: Iterable[int]) -> HdrHistogram:
    """A histogram of latencies in whole microseconds.

    Raises:
        LatencyOutOfRangeError: a value does not fit; nothing is left out silently.
    """
    histogram = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    for value in values_us:
        if not histogram.record_value(value):
            raise LatencyOutOfRangeError(value)
    return histogram


def merge(histograms: Iterable[HdrHistogram]) -> HdrHistogram:
    """Sum of the counts; percentiles of parts are never averaged."""
    total = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
    for histogram in histograms:
        total.add(histogram)
    return total


def summarise(histogram: HdrHistogram) -> Percentiles:
    """Percentiles in ms, rounded to a microsecond."""
    at = histogram.get_percentile_to_value_dict([50.0, 90.0, 99.0, 99.9, 100.0])
    count = histogram.get_total_count()
    ms = {percentile: round(value / 1000, 3) for percentile, value in at.items()}
    return Percentiles(
        count,
        ms.get(50.0, 0.0),
        ms.get(90.0, 0.0),
        ms.get(99.0, 0.0),
        ms.get(99.9) if count >= 10_000 else None,
        ms.get(100.0, 0.0),
    )


def encode(histogram: HdrHistogram) -> str:
    """The histogram as the HDR tools' base64 text, so that a reader can recompute every percentile."""
    encoded: bytes | str = histogram.encode()
    return encoded.decode() if isinstance(encoded, bytes) else encoded

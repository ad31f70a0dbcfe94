"""Latency histograms."""

from __future__ import annotations

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.histogram import HIGHEST_US, LatencyOutOfRangeError, encode, histogram_of, merge, summarise


def test_percentiles_are_right_within_three_digits() -> None:
    found = summarise(histogram_of(range(1, 100_001)))

    assert found.samples == 100_000
    assert found.p50_ms == pytest.approx(50.0, rel=1e-3)
    assert found.p99_ms == pytest.approx(99.0, rel=1e-3)
    assert found.p999_ms == pytest.approx(99.9, rel=1e-3)
    assert found.max_ms == pytest.approx(100.0, rel=1e-3)


def test_p999_needs_ten_thousand_samples() -> None:
    assert summarise(histogram_of(range(1, 10_000))).p999_ms is None
    assert summarise(histogram_of(range(1, 10_001))).p999_ms is not None


def test_an_empty_histogram_has_no_samples() -> None:
    assert summarise(histogram_of([])).samples == 0


@pytest.mark.parametrize("value", [-1, 2 * HIGHEST_US])
def test_a_value_that_does_not_fit_is_an_error_and_not_left_out(value: int) -> None:
    with pytest.raises(LatencyOutOfRangeError, match=str(value)):
        histogram_of([10, value])


@settings(max_examples=25)  # a histogram of 60 s has 34,000 counters: 10 ms to make and read
@given(st.lists(st.integers(1, HIGHEST_US), min_size=1), st.lists(st.integers(1, HIGHEST_US)))
def test_merging_parts_equals_measuring_the_whole(one: list[int], other: list[int]) -> None:
    merged = summarise(merge([histogram_of(one), histogram_of(other)]))

    assert merged == summarise(histogram_of(one + other))


def test_a_published_histogram_gives_the_same_percentiles_again() -> None:
    original = histogram_of([100, 2_000, 30_000])

    assert summarise(HdrHistogram.decode(encode(original))) == summarise(original)

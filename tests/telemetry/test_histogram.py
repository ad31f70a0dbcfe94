"""Histograms that count a batch at once count the same as one value at a time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client import Histogram as ReferenceHistogram

from app.telemetry.histogram import FEW, AgeHistogram, Histogram

BOUNDS = (0.001, 0.01, 0.1, 1.0)
NOW_MS = 1_700_000_000_000


def reference(ages_s: list[float]) -> tuple[dict[str, float], float]:
    """What prometheus_client counts for the same values."""
    registry = CollectorRegistry()
    histogram = ReferenceHistogram("ages", "-", buckets=BOUNDS, registry=registry)
    for age in ages_s:
        histogram.observe(age)
    samples = {(s.name, s.labels.get("le", "")): s.value for family in registry.collect() for s in family.samples}
    return {le: value for (name, le), value in samples.items() if name == "ages_bucket"}, samples["ages_sum", ""]


def summed(ages_ms: list[int]) -> tuple[list[int], int]:
    """Ascending stamps of these ages, and their sum."""
    stamps = sorted(NOW_MS - age for age in ages_ms)
    return stamps, sum(stamps)


@given(st.lists(st.integers(min_value=-2000, max_value=3000), min_size=1, max_size=4 * FEW))
def test_a_batch_of_ages_counts_as_prometheus_counts_each(ages_ms: list[int]) -> None:
    histogram = AgeHistogram(BOUNDS)
    histogram.observe_ages(NOW_MS, *summed(ages_ms))

    buckets, total = reference([max(0, age) / 1000 for age in ages_ms])
    assert dict(histogram.buckets()) == buckets
    assert histogram.total == pytest.approx(total)


@pytest.mark.parametrize("age_ms", [1, 10, 100, 1000])
@pytest.mark.parametrize("size", [1, FEW + 1])
def test_an_age_on_a_bound_belongs_to_that_bucket(age_ms: int, size: int) -> None:
    histogram = AgeHistogram(BOUNDS)
    histogram.observe_ages(NOW_MS, *summed([age_ms] * size))

    assert dict(histogram.buckets())[repr(age_ms / 1000)] == size


def test_an_age_above_all_bounds_counts_only_in_infinity() -> None:
    histogram = AgeHistogram(BOUNDS)
    histogram.observe_ages(NOW_MS, *summed([5000] * (FEW + 1)))

    assert dict(histogram.buckets()) == {"0.001": 0, "0.01": 0, "0.1": 0, "1.0": 0, "+Inf": FEW + 1}


@given(st.lists(st.lists(st.integers(min_value=0, max_value=3000), max_size=2 * FEW), max_size=5))
def test_counts_add_up_over_batches(batches: list[list[int]]) -> None:
    histogram = AgeHistogram(BOUNDS)
    for ages in batches:
        histogram.observe_ages(NOW_MS, *summed(ages))

    assert histogram.buckets()[-1] == ("+Inf", sum(map(len, batches)))


@pytest.mark.parametrize("bounds", [(), (2.0, 1.0), (1.0, 1.0)])
def test_bounds_that_do_not_ascend_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        Histogram(bounds)

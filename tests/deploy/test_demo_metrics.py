"""What the demo computes from the workers' words."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from app.engine.api import LaneId
from app.engine.status import UnitReport
from app.telemetry.exposition import Catalogue
from app.telemetry.pipeline import PipelineMetrics
from deploy.local.demo_metrics import Counts, LedgerBook, merged, quantile_ms, ranges, read_metrics, since

INF = math.inf


def lane(partition: int, consumed: int, **counts: int) -> dict[str, Any]:
    zero = {"emitted": 0, "duplicates": 0, "dead_lettered": 0, "residue": 0}
    return {"agent": "process_interactions", "partition": partition, "consumed": consumed, **(zero | counts)}


def test_a_workers_real_metrics_are_understood() -> None:
    registry = CollectorRegistry()
    pipeline = PipelineMetrics(Catalogue(registry))
    report = UnitReport(
        lane=LaneId("process_interactions", 3),
        topic="interactions",
        records=4,
        source_bytes=400,
        emitted=2,
        duplicates=1,
        dropped=0,
        dead_letters=[("decode", "invalid_json")],
        timestamps=[1000, 1000, 1000, 1000],
        reached={"visible": 1010, "durable": 1030},
        seconds={"compute": 0.001},
        changelog_records=3,
        changelog_bytes=300,
    )
    pipeline.unit_done(report)

    reading = read_metrics(generate_latest(registry).decode())

    assert (reading.consumed, reading.dead_letters) == (4, {"invalid_json": 1})
    assert quantile_ms(reading.latency, 1.0) == 10.0  # visible, not durable
    assert reading.latency[INF] == 4


GAUGES = """\
veltrix_consumer_lag{source="interactions",partition="0"} 5
veltrix_consumer_lag{source="interactions",partition="2"} 7
veltrix_state_keys{agent="a",partition="0"} 100
veltrix_queued_records{agent="a",partition="2"} 0
veltrix_queued_records{agent="a",partition="0"} 9
veltrix_phase{phase="recovering"} 0
veltrix_phase{phase="running"} 1
veltrix_redis_lanes{state="live"} 7
veltrix_redis_lanes{state="down"} 3
"""


def test_gauges_are_summed_over_partitions() -> None:
    reading = read_metrics(GAUGES)

    assert (reading.lag, reading.state_keys, reading.partitions, reading.phase) == (12, 100, (0, 2), "running")
    assert reading.redis_lanes == {"live": 7, "down": 3}


def test_metrics_that_are_not_there_yet_count_as_nothing() -> None:
    reading = read_metrics("")

    assert (reading.consumed, reading.lag, reading.partitions, reading.redis_lanes) == (0, 0, (), {})


# -- ledger -------------------------------------------------------------------------------------------------------
def test_the_ledger_is_summed_over_lanes() -> None:
    book = LedgerBook()

    book.update([lane(0, 10, emitted=8, duplicates=2), lane(1, 5, emitted=4, dead_lettered=1)])

    assert book.counts() == Counts(consumed=15, emitted=12, duplicates=2, dead_lettered=1, residue=0)


def test_a_lane_that_moves_is_counted_once() -> None:
    book = LedgerBook()
    book.update([lane(0, 10, emitted=10)])

    book.update([lane(0, 12, emitted=12)])
    book.update([lane(0, 10, emitted=10)])  # the old owner answers once more

    assert book.counts().consumed == 12


def test_a_lane_without_an_owner_keeps_its_counts() -> None:
    book = LedgerBook()
    book.update([lane(0, 10)])

    book.update([])

    assert book.counts().consumed == 10


# -- latency ------------------------------------------------------------------------------------------------------
def test_a_quantile_is_linear_within_its_bucket() -> None:
    buckets = {0.01: 0.0, 0.02: 100.0, INF: 100.0}

    assert quantile_ms(buckets, 0.5) == pytest.approx(15.0)
    assert quantile_ms(buckets, 1.0) == pytest.approx(20.0)


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert quantile_ms({0.5: 0.0, 60.0: 1.0, INF: 100.0}, 0.99) == 60_000.0


@pytest.mark.parametrize("buckets", [{}, {0.01: 0.0, INF: 0.0}])
def test_no_event_has_no_latency(buckets: dict[float, float]) -> None:
    assert quantile_ms(buckets, 0.5) is None


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 1.0), st.floats(0.01, 1.0))
def test_quantiles_grow_with_q_and_stay_within_the_bounds(counts: list[int], one: float, other: float) -> None:
    total = 0
    buckets: dict[float, float] = {}
    for bound, count in zip((0.001, 0.01, 0.1, INF), counts, strict=True):
        total += count
        buckets[bound] = total

    low, high = quantile_ms(buckets, min(one, other)), quantile_ms(buckets, max(one, other))

    if low is None or high is None:
        assert total == 0
    else:
        assert 0 <= low <= high <= 100.0


def test_histograms_of_workers_add_up_and_windows_subtract() -> None:
    older, newer = {0.01: 1.0, INF: 2.0}, {0.01: 4.0, INF: 9.0}

    assert merged([older, newer]) == {0.01: 5.0, INF: 11.0}
    assert since(newer, older) == {0.01: 3.0, INF: 7.0}
    assert since(older, {}) == older


def test_a_worker_that_restarted_gives_no_negative_counts() -> None:
    assert since({0.01: 1.0, INF: 1.0}, {0.01: 4.0, INF: 9.0}) == {0.01: 0.0, INF: 0.0}


@pytest.mark.parametrize(
    ("partitions", "text"), [((), ""), ((3,), "3"), ((0, 1, 2, 3), "0-3"), ((7, 0, 1), "0-1, 7"), ((0, 2, 4, 5), "0, 2, 4-5")]
)
def test_partitions_are_shown_as_ranges(partitions: tuple[int, ...], text: str) -> None:
    assert ranges(partitions) == text

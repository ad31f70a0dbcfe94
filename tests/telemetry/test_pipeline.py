"""What units, commits and rebalances add up to."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from app.engine.api import LaneId
from app.engine.status import Ledger, Observer, RecoveryStatus, Stage
from app.telemetry.disk import DiskMetrics
from app.telemetry.engine import EngineMetrics
from app.telemetry.exposition import Catalogue
from app.telemetry.pipeline import MAX_REASONS, OUTCOMES, PipelineMetrics
from tests.telemetry.fakes import AGENT, NOW_MS, FakeEngine, lane, unit


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue(CollectorRegistry())


@pytest.fixture
def pipeline(catalogue: Catalogue) -> PipelineMetrics:
    return PipelineMetrics(catalogue)


def value(catalogue: Catalogue, name: str, **labels: str) -> float | None:
    """One sample of the exposition; None when absent."""
    return catalogue.registry.get_sample_value(name, labels)


def test_it_is_an_observer_of_the_engine(pipeline: PipelineMetrics) -> None:
    observer: Observer = pipeline

    assert observer is pipeline


def test_outcomes_of_a_source_add_up_to_what_it_consumed(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(10, emitted=5, duplicates=2, dropped=1, dead_letters=[("decode", "bad_json"), ("validate", "no_id")]))
    pipeline.unit_done(unit(4))

    assert value(catalogue, "veltrix_events_consumed_total", source="interactions") == 14
    counts = {outcome: value(catalogue, "veltrix_events_total", source="interactions", outcome=outcome) for outcome in OUTCOMES}
    assert counts == {"emitted": 9, "duplicate": 2, "dead_lettered": 2, "retried": 0, "dropped": 1}


def test_sources_are_counted_apart(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(3))
    pipeline.unit_done(unit(5, topic="item-activity"))

    assert value(catalogue, "veltrix_events_consumed_total", source="interactions") == 3
    assert value(catalogue, "veltrix_events_consumed_total", source="item-activity") == 5


def test_dead_letters_count_by_stage_and_reason(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(3, emitted=0, dead_letters=[("decode", "bad_json"), ("decode", "bad_json"), ("validate", "no_id")]))

    assert value(catalogue, "veltrix_dead_letters_total", stage="decode", reason="bad_json") == 2
    assert value(catalogue, "veltrix_dead_letters_total", stage="validate", reason="no_id") == 1


def test_invented_reasons_do_not_grow_the_labels_without_bound(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    for number in range(MAX_REASONS * 3):
        pipeline.unit_done(unit(1, emitted=0, dead_letters=[("decode", f"error at byte {number}")]))

    family = next(family for family in catalogue.collect() if family.name == "veltrix_dead_letters")
    assert len(family.samples) == MAX_REASONS + 1
    assert value(catalogue, "veltrix_dead_letters_total", stage="other", reason="other") == MAX_REASONS * 2


def test_the_number_of_series_does_not_grow_with_traffic(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    EngineMetrics(catalogue, FakeEngine())

    def series() -> int:
        return sum(len(family.samples) for family in catalogue.collect())

    pipeline.unit_done(unit(10, dead_letters=[("decode", "bad_json")]))
    before = series()
    for number in range(50):
        pipeline.unit_done(unit(1 + number, partition=number % 10, dead_letters=[("decode", "bad_json")]))

    assert series() == before


def test_latency_is_measured_to_visible_and_to_durable(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(2, timestamps=[NOW_MS, NOW_MS - 100]))

    name = "veltrix_event_latency_seconds"
    assert value(catalogue, f"{name}_sum", source="interactions", stage="visible") == pytest.approx(0.020 + 0.120)
    assert value(catalogue, f"{name}_sum", source="interactions", stage="durable") == pytest.approx(0.025 + 0.125)
    assert value(catalogue, f"{name}_bucket", source="interactions", stage="visible", le="0.02") == 1
    assert value(catalogue, f"{name}_bucket", source="interactions", stage="durable", le="0.02") == 0
    assert value(catalogue, f"{name}_count", source="interactions", stage="visible") == 2


def test_each_stage_has_its_own_latency_in_the_order_in_which_a_record_meets_them(
    catalogue: Catalogue, pipeline: PipelineMetrics
) -> None:
    pipeline.unit_done(unit(1))

    name = "veltrix_event_latency_seconds_sum"
    ages = [value(catalogue, name, source="interactions", stage=stage) for stage in get_args(Stage)]
    assert ages == pytest.approx([0.002, 0.004, 0.006, 0.009, 0.012, 0.014, 0.020, 0.025])


def test_a_stage_that_a_sources_events_do_not_pass_has_no_latency(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    reached = {"fetched": NOW_MS, "taken": NOW_MS, "computed": NOW_MS, "produced": NOW_MS, "visible": NOW_MS, "durable": NOW_MS}
    pipeline.unit_done(unit(1, reached=reached))
    pipeline.unit_done(unit(0, timestamps=[], reached=reached | {"decoded": NOW_MS}))  # a tick: nothing was decoded

    lines = generate_latest(catalogue.registry).decode().splitlines()
    stages = {
        line.partition('stage="')[2].partition('"')[0] for line in lines if line.startswith("veltrix_event_latency_seconds_c")
    }
    assert stages == set(reached)


def test_what_a_body_says_it_spent_adds_up_by_agent_and_step(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(1, steps={"decode": 0.5, "state": 0.25}))
    pipeline.unit_done(unit(1, steps={"decode": 0.5}))

    assert value(catalogue, "veltrix_compute_seconds_total", agent=AGENT, step="decode") == 1.0
    assert value(catalogue, "veltrix_compute_seconds_total", agent=AGENT, step="state") == 0.25


@pytest.mark.parametrize(("end_offset", "expected"), [(100, 30.0), (95, 0.0), (-1, None)])
def test_lag_in_seconds_is_the_age_of_the_newest_result_while_others_wait(
    catalogue: Catalogue, pipeline: PipelineMetrics, end_offset: int, expected: float | None
) -> None:
    EngineMetrics(catalogue, FakeEngine(statuses=[lane(0, end_offset=end_offset)]), pipeline.newest_ms)
    now_ms = time.time_ns() // 1_000_000
    pipeline.unit_done(unit(2, timestamps=[now_ms - 60_000, now_ms - 30_000]))

    found = value(catalogue, "veltrix_consumer_lag_seconds", source="interactions", partition="0")
    assert found == (None if expected is None else pytest.approx(expected, abs=1.0))


def test_the_disk_of_the_tables_is_measured_once_it_exists(catalogue: Catalogue, tmp_path: Path) -> None:
    DiskMetrics(catalogue, tmp_path / "data")
    assert value(catalogue, "veltrix_data_disk_free_bytes") is None

    (tmp_path / "data").mkdir()

    free, size = value(catalogue, "veltrix_data_disk_free_bytes"), value(catalogue, "veltrix_data_disk_size_bytes")
    assert free is not None
    assert size is not None
    assert 0 < free <= size


def test_units_feed_sizes_phases_and_changelog(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.unit_done(unit(10))
    pipeline.unit_done(unit(1))

    assert value(catalogue, "veltrix_batch_records_bucket", le="1.0") == 1
    assert value(catalogue, "veltrix_batch_records_sum") == 11
    assert value(catalogue, "veltrix_batch_bytes_sum") == 4400
    assert value(catalogue, "veltrix_loop_seconds_total", phase="compute") == 1.0
    assert value(catalogue, "veltrix_loop_seconds_total", phase="changelog") == 0.5
    assert value(catalogue, "veltrix_changelog_records_total") == 13
    assert value(catalogue, "veltrix_changelog_bytes_total") == 1100


def test_commits_rebalances_and_restores_are_counted(catalogue: Catalogue, pipeline: PipelineMetrics) -> None:
    pipeline.committed(0.01, ok=True)
    pipeline.committed(0.5, ok=False)
    pipeline.rebalanced(2.5, 4)
    pipeline.restored(LaneId(AGENT, 0), 500, 60_000)

    assert value(catalogue, "veltrix_commits_total", outcome="ok") == 1
    assert value(catalogue, "veltrix_commits_total", outcome="failed") == 1
    assert value(catalogue, "veltrix_commit_duration_seconds_count") == 2
    assert value(catalogue, "veltrix_rebalances_total") == 1
    assert value(catalogue, "veltrix_rebalance_seconds_total") == 2.5
    assert value(catalogue, "veltrix_recovery_restored_records_total") == 500
    assert value(catalogue, "veltrix_recovery_restored_bytes_total") == 60_000


def test_a_record_costs_little(pipeline: PipelineMetrics) -> None:
    """Goal 0.2 us a record in large units; ten times that is a mistake and not a slow machine."""
    report = unit(1000, timestamps=[NOW_MS - offset for offset in range(1000)])

    best = min(_seconds_per_unit(pipeline, report) for _ in range(5))

    assert best / 1000 < 2e-6


def _seconds_per_unit(pipeline: PipelineMetrics, report: object) -> float:
    start = time.perf_counter()
    for _ in range(20):
        pipeline.unit_done(report)  # type: ignore[arg-type]
    return (time.perf_counter() - start) / 20


def test_lanes_are_read_from_the_engine_at_scrape_time(catalogue: Catalogue) -> None:
    engine = FakeEngine(statuses=[])
    EngineMetrics(catalogue, engine)
    assert value(catalogue, "veltrix_assigned_partitions") == 0

    engine.statuses = [lane(7, paused=True, ledger=Ledger(consumed=3, emitted=1))]

    assert value(catalogue, "veltrix_assigned_partitions") == 1
    assert value(catalogue, "veltrix_consumer_lag", source="interactions", partition="7") == 5
    assert value(catalogue, "veltrix_commit_age_seconds", source="interactions", partition="7") == 0.2
    assert value(catalogue, "veltrix_state_keys", agent=AGENT, partition="7") == 42
    assert value(catalogue, "veltrix_queued_records", agent=AGENT, partition="7") == 3
    assert value(catalogue, "veltrix_units_in_flight", agent=AGENT, partition="7") == 1
    assert value(catalogue, "veltrix_lane_paused", agent=AGENT, partition="7") == 1
    assert value(catalogue, "veltrix_ledger_residue", agent=AGENT, partition="7") == 2


def test_an_unknown_lag_is_absent_and_not_zero(catalogue: Catalogue) -> None:
    EngineMetrics(catalogue, FakeEngine(statuses=[lane(0, end_offset=-1, committed_offset=-1)]))

    assert value(catalogue, "veltrix_consumer_lag", source="interactions", partition="0") is None
    assert value(catalogue, "veltrix_commit_age_seconds", source="interactions", partition="0") is None


def test_phase_recovery_and_readiness_are_visible(catalogue: Catalogue) -> None:
    engine = FakeEngine(now="recovering", waits=["tables"], restore=RecoveryStatus(True, 10, 90, 1000.0, 2.0))
    EngineMetrics(catalogue, engine)

    assert value(catalogue, "veltrix_ready") == 0
    assert value(catalogue, "veltrix_phase", phase="recovering") == 1
    assert value(catalogue, "veltrix_phase", phase="running") == 0
    assert value(catalogue, "veltrix_recovery_active") == 1
    assert value(catalogue, "veltrix_recovery_remaining_records") == 90
    assert value(catalogue, "veltrix_recovery_records_per_second") == 1000

    engine.now, engine.waits = "running", []
    assert value(catalogue, "veltrix_ready") == 1

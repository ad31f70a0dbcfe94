"""This run against the last one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bench.compare import compare, goal_table, judge, table
from bench.result import CaseResult, Parameters, at_least, at_most, load, ratios, save


def result(rate: float, ratio: float | None = None, parameters: Parameters | None = None) -> CaseResult:
    return CaseResult(
        case="drain",
        parameters=parameters or {"events": 10},
        subjects={"worker": {"events_per_second": rate, "seconds": 1.0}},
        ratio={} if ratio is None else {"events_per_second": ratio},
    )


@pytest.mark.parametrize(
    ("now", "more_is_better", "verdict"),
    [
        (105, True, "same"),
        (95, True, "same"),
        (120, True, "better"),
        (80, True, "worse"),
        (120, False, "worse"),
        (80, False, "better"),
    ],
)
def test_a_change_counts_beyond_the_noise_and_in_its_direction(now: float, more_is_better: bool, verdict: str) -> None:
    assert judge(now, 100, more_is_better) == verdict


def test_without_a_saved_run_everything_is_new() -> None:
    (row,) = compare([result(100)], [])

    assert (row.last, row.change, row.verdict) == (None, None, "new")


def test_only_compared_numbers_get_a_row() -> None:
    assert [row.metric for row in compare([result(100)], [])] == ["events_per_second"]


def test_the_ratio_decides_because_both_subjects_met_the_same_machine() -> None:
    (row,) = compare([result(50, ratio=1.5)], [result(100, ratio=1.5)])  # a machine half as fast, the same lead

    assert row.change == pytest.approx(-0.5)
    assert row.verdict == "same"


def test_a_run_of_another_size_is_not_compared() -> None:
    (row,) = compare([result(100, parameters={"events": 5})], [result(100)])

    assert row.last is None
    assert row.verdict == "new"


def test_ratios_need_both_subjects() -> None:
    both = {"worker": {"p50_ms": 10.0, "seconds": 3.0}, "hand": {"p50_ms": 20.0, "seconds": 3.0}}

    assert ratios(both) == {"p50_ms": 0.5}
    assert ratios({"worker": {"p50_ms": 10.0}}) == {}
    assert ratios({"hand": {"p50_ms": 10.0}}) == {}


def test_saving_replaces_the_same_case_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.jsonl"
    other = CaseResult(case="other", parameters={}, subjects={})
    save(path, [result(1), other])

    save(path, [result(2)])

    assert load(path) == [result(2), other]


def test_no_saved_file_means_no_results(tmp_path: Path) -> None:
    assert load(tmp_path / "absent.jsonl") == []


def test_a_goal_without_a_number_is_neither_met_nor_missed() -> None:
    assert at_least("x", None, 1).met is None
    assert [at_least("x", 2, 1).met, at_least("x", 0, 1).met] == [True, False]
    assert [at_most("x", 0, 1).met, at_most("x", 2, 1).met] == [True, False]


def test_the_tables_show_numbers_changes_and_goals() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    now = CaseResult(case="drain", parameters={}, subjects={"worker": {"p50_ms": 12.0}}, goals=[at_most("worker p50", 12.0, 8)])
    last = CaseResult(case="drain", parameters={}, subjects={"worker": {"p50_ms": 10.0}})
    console.print(table(compare([now], [last])))
    console.print(goal_table([now]))
    text = console.export_text()

    assert "+20%" in text
    assert "missed" in text

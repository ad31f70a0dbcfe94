"""The report: every run counts once, failures are shown, and the published document is what the published results say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.report import BEGIN, DOCUMENT, END, MUTANT, merge, rewrite, tables
from tests.faults.results import PUBLISHED, RunResult, append, load


def run(fault: str = "kill", *, passed: bool = True, at: str = "2026-01-01T00:00:00+00:00", lost: int = 0) -> RunResult:
    violations = () if passed else ("1 outputs are missing: interactions:0:7",)
    return RunResult(
        fault=fault, guarantee="at_least_once", seed=7, promised="nothing lost", passed=passed, at=at, test=f"test_{fault}",
        may_repeat=True, injections=5, sent=1_000, outputs=990, duplicate_outputs=12, lost=lost, resume_s=(2.0, 4.0, 9.0), violations=violations,
    )  # fmt: skip


def test_a_run_that_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"

    append(run(), path)
    append(run("stop"), path)

    assert load(path) == [run(), run("stop")]


def test_no_results_are_no_runs(tmp_path: Path) -> None:
    assert load(tmp_path / "none.jsonl") == []


def test_a_run_that_is_in_two_files_counts_once() -> None:
    assert merge([run()], [run(), run(at="2026-01-02T00:00:00+00:00")]) == [run(), run(at="2026-01-02T00:00:00+00:00")]


def test_runs_of_one_fault_are_one_row_with_their_sums() -> None:
    text = tables([run(), run(at="2026-01-02T00:00:00+00:00")])

    assert (
        "| kill | at least once | nothing lost; repeats with the same bytes | 2 | 10 | 2,000 | 0 | 0 | 24 | 4.0 / 9.0 | yes |"
        in text
    )
    assert "Failed" not in text.replace("Failed runs: **0**", "")


def test_a_failed_run_is_shown_with_what_was_wrong() -> None:
    text = tables([run(), run(passed=False, at="2026-01-02T00:00:00+00:00", lost=1)])

    assert "**1 of 2**" in text
    assert "Lost: **1**" in text
    assert "seed 7: 1 outputs are missing" in text


def test_mutants_are_kept_apart_from_the_faults() -> None:
    text = tables([run(), run(f"{MUTANT}marker ignored", lost=50)])

    assert "| marker ignored | 1 of 1 |" in text
    assert "Lost: **0**" in text


def test_only_the_generated_part_of_the_document_changes() -> None:
    assert rewrite(f"# Title\n{BEGIN}\nold\n{END}\nEnd\n", "new") == f"# Title\n{BEGIN}\n\nnew\n\n{END}\nEnd\n"


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        rewrite("# Title", "new")


def test_the_published_document_says_what_the_published_results_say() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")

    assert rewrite(document, tables(merge(load(PUBLISHED)))) == document

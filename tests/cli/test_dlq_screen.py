"""What `veltrix dlq` shows of an answer."""

from __future__ import annotations

import io

from rich.console import Console

from app.cli.dlq_screen import show_verdict

OPEN = {"result": "sessions", "open": 1, "revised": 0, "left_out": 0, "first": None, "last": None}
SPAN = {"first": "2026-11-29T10:00:00.000Z", "last": "2026-11-29T10:06:00.000Z"}


def shown(**answer: object) -> str:
    screen = io.StringIO()
    show_verdict(Console(file=screen, width=160), answer)
    return screen.getvalue()


def test_a_letter_that_changes_no_published_result_passes_and_no_more_is_said() -> None:
    assert shown(passes=True, results=[OPEN]).strip() == "passes"


def test_published_results_that_a_replay_corrects_are_named_and_so_are_those_that_it_leaves() -> None:
    windows = [{"result": "item_5m", "open": 0, "revised": 3, "left_out": 2, **SPAN}]
    lines = shown(checked=2, passed=2, failed={}, results=[OPEN, *windows]).splitlines()
    assert lines[0] == "2 of 2 would pass"
    assert " ".join(lines[1].split()) == (
        "3 closed item_5m are published again, corrected (between 2026-11-29 10:00:00 and 2026-11-29 10:06:00)"
    )
    assert lines[2].split()[:4] == ["2", "closed", "item_5m", "stay"]
    assert len(lines) == 3

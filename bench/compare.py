"""This run against the last saved one: by number, with the ratio to the yardstick beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table

from bench.result import COMPARED, CaseResult, Goal

NOISE = 0.10  # drain per CPU-second repeats within about 10 % on a shared machine, latencies worse
Verdict = Literal["better", "worse", "same", "new"]
COLOURS: dict[Verdict, str] = {"better": "green", "worse": "red", "same": "", "new": "cyan"}


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one subject, now and in the saved run; ``ratio`` is the worker's over the hand-written loop's."""

    case: str
    subject: str
    metric: str
    now: float
    last: float | None
    ratio: float | None
    last_ratio: float | None
    verdict: Verdict

    @property
    def change(self) -> float | None:
        """Relative change since the saved run."""
        return None if not self.last else self.now / self.last - 1


def compare(now: Iterable[CaseResult], last: Iterable[CaseResult]) -> list[Row]:
    """Rows for every compared number of ``now``. The verdict on a number that has a ratio rests on the ratio:
    both subjects met the same machine, the absolute number met two different ones."""
    before = {result.case: result for result in last}
    return [row for result in now for row in _rows(result, before.get(result.case))]


def _rows(result: CaseResult, last: CaseResult | None) -> Iterator[Row]:
    same_size = last is not None and last.parameters == result.parameters
    for subject, numbers in result.subjects.items():
        for metric in COMPARED:
            if metric not in numbers:
                continue
            previous = last.subjects.get(subject, {}).get(metric) if last is not None and same_size else None
            mine = subject == "worker"
            ratio = result.ratio.get(metric) if mine else None
            last_ratio = last.ratio.get(metric) if mine and last is not None and same_size else None
            pair = (ratio, last_ratio) if ratio is not None and last_ratio is not None else (numbers[metric], previous)
            yield Row(result.case, subject, metric, numbers[metric], previous, ratio, last_ratio, judge(*pair, COMPARED[metric]))


def judge(now: float, last: float | None, more_is_better: bool) -> Verdict:
    """Better or worse by more than the noise, else the same."""
    if not last:
        return "new"
    change = now / last - 1
    if abs(change) <= NOISE:
        return "same"
    return "better" if (change > 0) == more_is_better else "worse"


def table(rows: Sequence[Row]) -> Table:
    """The comparison as a terminal table."""
    view = Table(title="against the last saved run", title_justify="left")
    for name in ("case", "subject", "number"):
        view.add_column(name, no_wrap=True)
    for name in ("now", "last", "change", "x hand", "was"):
        view.add_column(name, justify="right", no_wrap=True)
    previous = ""
    for row in rows:
        style = COLOURS[row.verdict]
        change = "" if row.change is None else f"{row.change:+.0%}"
        shown = [row.case if row.case != previous else "", row.subject, row.metric, _text(row.now), _text(row.last)]
        view.add_row(*shown, change, _text(row.ratio), _text(row.last_ratio), style=style)
        previous = row.case
    return view


def goal_table(results: Sequence[CaseResult]) -> Table:
    """All goals, and whether they are met."""
    view = Table(title="goals", title_justify="left")
    view.add_column("case", no_wrap=True)
    view.add_column("goal")
    view.add_column("measured", justify="right", no_wrap=True)
    view.add_column("", no_wrap=True)
    for result in results:
        for goal in result.goals:
            view.add_row(result.case, goal.text, _text(goal.measured), _mark(goal))
    return view


def _mark(goal: Goal) -> str:
    return "[dim]not measured[/]" if goal.met is None else "[green]met[/]" if goal.met else "[red]missed[/]"


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

"""``veltrix topics``: what the tables on the screen say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from app.cli.console import grid
from app.settings import Settings
from app.topic_admin import Applied, Problem
from app.topics import Topic, all_topics


def show_applied(console: Console, settings: Settings, applied: Applied) -> None:
    """One line per topic, then what could not be mended."""
    table = grid("topic", "partitions", "result", "written by")
    for topic in all_topics(settings):
        table.add_row(topic.name, str(topic.partitions), _result(topic, applied), topic.made_by)
    console.print(table)
    show_problems(console, applied.left)
    show_mending(console, applied.left)


def show_checked(console: Console, settings: Settings, problems: Sequence[Problem]) -> None:
    """One line per topic, then the differences with the command to mend them."""
    table = grid("topic", "partitions", "state", "written by")
    wrong = {problem.topic for problem in problems}
    missing = {problem.topic for problem in problems if problem.kind == "missing"}
    for topic in all_topics(settings):
        state = "[red]missing[/]" if topic.name in missing else "[yellow]differs[/]" if topic.name in wrong else "[green]ok[/]"
        table.add_row(topic.name, str(topic.partitions), state, topic.made_by)
    console.print(table)
    show_problems(console, [problem for problem in problems if problem.kind != "missing"])
    show_mending(console, problems)


def show_problems(console: Console, problems: Sequence[Problem]) -> None:
    if not problems:
        return
    table = grid("topic", "setting", "is", "must be")
    for problem in problems:
        table.add_row(problem.topic, problem.setting, f"[red]{problem.actual}[/]", problem.expected)
    console.print()
    console.print(table)


def show_mending(console: Console, problems: Sequence[Problem]) -> None:
    """What to do, once for each kind of problem."""
    for command in dict.fromkeys(problem.fixed_by for problem in problems):
        console.print(f"\nMend with: [bold]{command}[/]", soft_wrap=True)


def applied_json(applied: Applied) -> dict[str, Any]:
    return {
        "created": list(applied.created),
        "altered": [asdict(problem) for problem in applied.altered],
        "left": [problem_json(problem) for problem in applied.left],
    }


def checked_json(problems: Sequence[Problem]) -> dict[str, Any]:
    return {"ok": not problems, "problems": [problem_json(problem) for problem in problems]}


def problem_json(problem: Problem) -> dict[str, str]:
    return asdict(problem) | {"fixed_by": problem.fixed_by}


def _result(topic: Topic, applied: Applied) -> str:
    if topic.name in applied.created:
        return "[green]created[/]"
    altered = [f"{p.setting} {p.actual} -> {p.expected}" for p in applied.altered if p.topic == topic.name]
    if altered:
        return f"[yellow]altered[/] {', '.join(altered)}"
    if any(p.topic == topic.name for p in applied.left):
        return "[red]differs, not changed[/]"
    return "[dim]as it should be[/]"

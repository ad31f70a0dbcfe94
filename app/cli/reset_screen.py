"""What ``veltrix reset`` shows before it acts."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from app.cli.console import grid
from app.cli.reset import ResetPlan


def show(console: Console, plan: ResetPlan, app_id: str) -> None:
    table = grid("source partition", "committed", "new offset", "records to read again")
    for rewind in plan.rewinds:
        committed = "never" if rewind.committed is None else f"{rewind.committed:,}"
        table.add_row(f"{rewind.topic}[{rewind.partition}]", committed, f"{rewind.target:,}", f"{rewind.records:,}")
    console.print(table)
    console.print(
        f"\nIn all {sum(rewind.records for rewind in plan.rewinds):,} records will be processed again; their outputs are published again."
    )
    for topic, count in plan.changelogs.items():
        console.print(f"All state in [bold]{topic}[/] will be forgotten: up to {count:,} records.", soft_wrap=True)
    if plan.redis_keys is None:
        console.print("No Redis is configured.")
    else:
        console.print(
            f"{plan.redis_keys:,} keys in Redis will be deleted ([bold]{app_id}:lookup:*[/], [bold]{app_id}:cover:*[/]).",
            soft_wrap=True,
        )


def plan_json(plan: ResetPlan) -> dict[str, Any]:
    rewinds = [
        {"topic": r.topic, "partition": r.partition, "committed": r.committed, "target": r.target, "end": r.end}
        for r in plan.rewinds
    ]
    return {"source": rewinds, "changelog_records": dict(plan.changelogs), "redis_keys": plan.redis_keys}

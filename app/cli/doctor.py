"""``veltrix doctor``: is everything around a worker as it must be, and if not, what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from app.cli.checkup import Check, Status, fail
from app.cli.doctor_exactly_once import check_exactly_once
from app.cli.doctor_kafka import check_kafka
from app.cli.doctor_machine import check_lock, check_machine, check_redis, check_sidecar
from app.cli.doctor_reference import check_reference
from app.cli.doctor_state import check_tables
from app.kafka_clients import KafkaConnectError
from app.settings import Settings
from app.topic_admin import TopicAdminError

MARKS: Final[dict[Status, tuple[str, str]]] = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


async def examine(settings: Settings) -> list[Check]:
    """All checks; those that need a broker are left out when there is none."""
    checks: list[Check] = []
    try:
        checks += await check_kafka(settings)
        checks += await check_exactly_once(settings)
        checks += await check_tables(settings)
    except KafkaConnectError as exc:
        checks.append(fail("kafka", f"not reachable at {exc.bootstrap}", exc.reason))
    except TopicAdminError as exc:
        checks.append(fail("kafka", str(exc), "check the rights of this user: Describe on cluster, topics and their configuration"))
    checks += await check_redis(settings)
    checks.append(await check_reference(settings))
    checks += check_machine(settings)
    checks += [await check_lock(settings), await check_sidecar(settings)]
    return checks


def is_sound(checks: Sequence[Check]) -> bool:
    """No check failed; warnings are allowed."""
    return all(check.status != "fail" for check in checks)


def show(console: Console, checks: Sequence[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark, style = MARKS[check.status]
        console.print(Text.assemble((mark, style), f"  {check.name:<{width}}  {check.detail}"), soft_wrap=True)
        if check.advice:
            console.print(Text.assemble(" " * (width + 8), ("-> ", style), check.advice), soft_wrap=True)
    console.print(_verdict(checks))


def as_json(checks: Sequence[Check]) -> dict[str, Any]:
    return {"ok": is_sound(checks), "checks": [asdict(check) for check in checks]}


def _verdict(checks: Sequence[Check]) -> Text:
    failed, warned = (sum(check.status == status for check in checks) for status in ("fail", "warn"))
    if failed:
        return Text(f"\n{failed} failed, {warned} warning(s)", "bold red")
    return Text(f"\nready, {warned} warning(s)" if warned else "\nready", "bold green")

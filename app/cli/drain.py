"""``veltrix drain``: take a static member out of the group for good, so that its partitions go to the others.

A static member keeps its partitions while it is away, up to the session timeout: that is what makes a restart
cheap, and what makes a scale-down leave them idle. Stop the worker with SIGTERM first: it finishes and commits.
Draining a worker that runs ends it (it finds itself thrown out and exits), hence ``--force``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console

from app.cli.console import CommandError, grid
from app.cli.doctor_machine import livez, lock_owner
from app.kafka_groups import Group, GroupMember, StaticMemberUnknown, describe_group, remove_static_member
from app.settings import Settings
from app.topic_admin import KafkaTopicAdmin, open_admin

#: How long the others may take to meet again; above it only the message differs.
SETTLE_TIMEOUT_S: Final = 30.0
_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class DrainPlan:
    """What a drain will do. ``running``: why we think that the worker runs; empty: it does not; None: not to be seen from here."""

    instance_id: str
    member: GroupMember
    others: int
    running: str | None


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did. ``partitions``: how many it released; ``state``: of the group afterwards; Stable: the others have taken the partitions over."""

    partitions: int
    others: int
    state: str


async def plan_drain(settings: Settings, instance_id: str) -> DrainPlan:
    """Look, change nothing. ``instance_id`` empty: that of the settings.

    Raises:
        CommandError: no id is given or set, or the group has no such member.
        KafkaConnectError, TopicAdminError: Kafka cannot be asked.
    """
    instance = instance_id or settings.group_instance_id
    if not instance:
        raise CommandError("which member? Give --instance, or set VELTRIX_GROUP_INSTANCE_ID as the worker has it")
    async with open_admin(settings) as admin:
        group = await describe_group(admin.client, settings.app_id)
    member = group.static_member(instance)
    if member is None:
        raise CommandError(_unknown(settings.app_id, instance, group))
    running = await _signs_of_life(settings) if instance == settings.group_instance_id else None
    return DrainPlan(instance, member, len(group.members) - 1, running)


async def carry_out(settings: Settings, plan: DrainPlan, *, force: bool = False) -> Drained:
    """Remove the member and wait until the others have its partitions.

    Raises:
        CommandError: its worker runs (and not ``force``), or it left meanwhile.
        KafkaConnectError, TopicAdminError: Kafka cannot be asked or refuses.
    """
    if plan.running and not force:
        raise CommandError(
            f"{plan.running}. Stop it with SIGTERM first, so that it finishes and commits; --force makes it exit at once with status 70"
        )
    async with open_admin(settings) as admin:
        try:
            await remove_static_member(admin.client, settings.app_id, plan.instance_id)
        except StaticMemberUnknown as exc:
            raise CommandError(f"{exc}: it left meanwhile") from exc
        group = await _settled(admin, settings.app_id)
    return Drained(sum(map(len, plan.member.partitions.values())), len(group.members), group.state)


async def _settled(admin: KafkaTopicAdmin, group_id: str) -> Group:
    """The group once it is Stable or Empty, or as it is after the time-out."""
    deadline = asyncio.get_running_loop().time() + SETTLE_TIMEOUT_S
    while True:
        group = await describe_group(admin.client, group_id)
        if group.state in ("Stable", "Empty", "Dead") or asyncio.get_running_loop().time() > deadline:
            return group
        await asyncio.sleep(_POLL_S)


async def _signs_of_life(settings: Settings) -> str:
    """Whether the worker of these settings runs: it holds its data directory, or its sidecar answers."""
    owner = lock_owner(settings.data_dir)
    if owner is not None:
        return f"the worker with pid {owner} runs on {settings.data_dir}"
    if settings.sidecar_port and await livez(settings.sidecar_host, settings.sidecar_port) is not None:
        return f"a worker answers on {settings.sidecar_host}:{settings.sidecar_port}"
    return ""


def _unknown(group_id: str, instance: str, group: Group) -> str:
    known = sorted(member.instance_id for member in group.members if member.instance_id)
    have = f"its static members: {', '.join(known)}" if known else "it has no static members"
    return f"group {group_id} has no member with group_instance_id {instance} ({have}; state {group.state})"


# -- screen ------------------------------------------------------------------------------------------------


def show(console: Console, plan: DrainPlan, app_id: str) -> None:
    """The plan, for people."""
    console.print(
        f"Member [bold]{plan.instance_id}[/] of group [bold]{app_id}[/] ({plan.member.client_id} on {plan.member.host}) "
        f"will leave; {plan.others} other member(s) take over:",
        soft_wrap=True,
    )
    table = grid("topic", "partitions released")
    for topic, partitions in plan.member.partitions.items():
        table.add_row(topic, ", ".join(map(str, partitions)) or "-")
    console.print(table)
    if not plan.others:
        console.print("[yellow]No other member is in the group: nobody will process these partitions.[/]")
    if plan.running:
        console.print(f"[yellow]{plan.running}:[/] stop it first.", soft_wrap=True)
    elif plan.running is None:
        console.print(
            "Whether its worker runs cannot be seen with these settings: if it does, it will exit with status 70.", soft_wrap=True
        )


def plan_json(plan: DrainPlan) -> dict[str, Any]:
    """The plan, for programs."""
    return {
        "instance": plan.instance_id,
        "member": plan.member.member_id,
        "host": plan.member.host,
        "others": plan.others,
        "running": plan.running,
        "released": plan.member.partitions,
    }


def done_line(done: Drained) -> str:
    """What happened, in a sentence."""
    if done.state == "Stable":
        return f"released {done.partitions} partitions; {done.others} member(s) have taken them over"
    if done.others:
        return f"released {done.partitions} partitions; the group is still in state {done.state}"
    return f"released {done.partitions} partitions; the group has no members now"

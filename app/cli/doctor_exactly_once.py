"""Checks of ``veltrix doctor`` that matter with ``processing_guarantee = "exactly_once"`` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.cli.checkup import Check, fail, ok, warn
from app.cli.reset import group_members
from app.settings import Settings
from app.topic_admin import KafkaTopicAdmin, open_admin

REPLICATION: Final = "transaction.state.log.replication.factor"
MIN_ISR: Final = "transaction.state.log.min.isr"
MAX_TIMEOUT: Final = "transaction.max.timeout.ms"
STATE_LOG: Final = "__transaction_state"


async def check_exactly_once(settings: Settings) -> list[Check]:
    """Nothing for at_least_once; else settings, group and brokers.

    Raises:
        KafkaConnectError: the broker cannot be reached.
        TopicAdminError: it does not let us look.
    """
    if settings.processing_guarantee != "exactly_once":
        return []
    async with open_admin(settings) as admin:
        nodes = [row["node_id"] for row in (await admin.client.describe_cluster())["brokers"]]
        config = await broker_config(admin, nodes[0])
        replicas = await state_log_replicas(admin)
        members = len(await group_members(admin, settings.app_id))
    return [
        check_groups(settings.transaction_groups, settings.partitions, members),
        check_state_log(config, replicas, len(nodes), settings),
        check_timeout(config, settings.transaction_timeout_ms),
    ]


def check_groups(groups: int, partitions: int, members: int) -> Check:
    """``members``: workers in the consumer group now."""
    if groups > partitions:
        advice = f"set VELTRIX_TRANSACTION_GROUPS to at most {partitions} before the first start; later a change needs all workers stopped"
        return fail("transactions", f"{groups} transaction groups for {partitions} partitions: some would have none", advice)
    if members > groups:
        advice = f"run at most {groups} workers, or stop all and raise VELTRIX_TRANSACTION_GROUPS"
        return warn("transactions", f"{members} workers share {groups} transaction groups: {members - groups} of them idle", advice)
    return ok("transactions", f"{groups} groups for {partitions} partitions; at most {groups} workers share the work")


def check_state_log(config: Mapping[str, str], replicas: int | None, brokers: int, settings: Settings) -> Check:
    """``replicas``: of the transaction state log, None while it does not exist (the first transaction makes it)."""
    planned = int(config.get(REPLICATION, "3"))
    if replicas is None and planned > brokers:
        advice = f"set {REPLICATION}={brokers} and {MIN_ISR}=1 on the brokers, or add brokers: until then no transaction can begin"
        return fail("transaction log", f"{REPLICATION} is {planned}, but there are {brokers} broker(s)", advice)
    found = planned if replicas is None else replicas
    if found < settings.replication_factor:
        advice = f"set {REPLICATION}={settings.replication_factor} and {MIN_ISR}={settings.min_insync_replicas} on the brokers"
        if replicas is not None:
            advice += f"; {STATE_LOG} exists already: raise it with kafka-reassign-partitions.sh"
        detail = (
            f"{STATE_LOG} has {found} replica(s), the topics {settings.replication_factor}: losing one broker stops transactions"
        )
        return fail("transaction log", detail, advice)
    min_isr = int(config.get(MIN_ISR, "2"))
    if min_isr < settings.min_insync_replicas:
        advice = f"set {MIN_ISR}={settings.min_insync_replicas} on the brokers"
        return warn("transaction log", f"{MIN_ISR} is {min_isr}, below the topics' {settings.min_insync_replicas}", advice)
    return ok("transaction log", f"{found} replica(s), {MIN_ISR} {min_isr}")


def check_timeout(config: Mapping[str, str], timeout_ms: int) -> Check:
    """The broker refuses a producer that asks for more than its own limit."""
    limit = int(config.get(MAX_TIMEOUT, "900000"))
    if timeout_ms > limit:
        advice = f"lower VELTRIX_TRANSACTION_TIMEOUT_MS to at most {limit}, or raise {MAX_TIMEOUT} on the brokers"
        return fail(
            "transaction timeout", f"{timeout_ms} ms is above the brokers' {MAX_TIMEOUT} {limit}: no producer would start", advice
        )
    return ok("transaction timeout", f"{timeout_ms} ms")


async def broker_config(admin: KafkaTopicAdmin, node: int) -> dict[str, str]:
    """The settings of one broker; empty when this user may not read them (then Kafka's defaults are assumed)."""
    found: dict[str, str] = {}
    for response in await admin.client.describe_configs([ConfigResource(ConfigResourceType.BROKER, str(node))]):
        for code, _, _, _, entries in response.resources:
            if not code:
                found |= {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return found


async def state_log_replicas(admin: KafkaTopicAdmin) -> int | None:
    """Fewest replicas of a partition of the transaction state log; None while it does not exist."""
    for row in await admin.client.describe_topics():
        if row["topic"] == STATE_LOG:
            return min((len(partition["replicas"]) for partition in row["partitions"]), default=0)
    return None

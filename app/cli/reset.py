"""``veltrix reset``: forget all state and read the source again, from its start or from a time.

The order makes a crash at any point harmless; running the command again completes it.

1. Commit the source offsets. The broker takes them only while the group has no members, so this is also the
   last guard against a running worker. Until step 2 a worker ignores them: its marker says more is applied.
2. Append a reset record to every changelog partition. From here on a worker that restores that partition
   empties its table, and starts at the offsets of step 1. Each partition changes over in this one append.
3. Delete the changelog records before it, so that a restore does not read what it will forget.
4. Delete the lookups in Redis. New ones carry higher stamps, so none of them is older than what this left behind.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import aiokafka
import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, PolicyViolationError, UnknownMemberIdError

from app.cli.console import CommandError
from app.cli.doctor_machine import lock_owner
from app.cli.reading import open_consumer
from app.cli.redis_tools import RedisUnavailable, count_keys, delete_keys, open_redis
from app.engine.api import RESET_KEY
from app.kafka_clients import client_options, connected
from app.settings import Settings
from app.topic_admin import DEFAULT_AGENTS, VISIBLE_TIMEOUT_S, KafkaTopicAdmin, open_admin
from app.topics import AGENTS, INTERNAL, changelog_of, running

#: DeleteRecords is refused for a topic that is only compacted. With these no record can expire meanwhile.
DELETABLE: Final = {"cleanup.policy": "compact,delete", "retention.ms": "-1", "retention.bytes": "-1"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Rewind:
    """One source partition. ``committed`` None: the group never committed. ``records``: to be read again, at most."""

    topic: str
    partition: int
    committed: int | None
    target: int
    end: int

    @property
    def records(self) -> int:
        return self.end - self.target


@dataclass(frozen=True, slots=True)
class ResetPlan:
    """What a reset will do. ``changelogs``: records at most per topic (compaction leaves gaps); ``redis_keys`` None: no Redis."""

    rewinds: tuple[Rewind, ...]
    changelogs: Mapping[str, int]
    redis_keys: int | None


@dataclass(frozen=True, slots=True)
class ResetDone:
    """What a reset did."""

    epoch: str
    committed: int
    changelog_partitions: int
    redis_keys: int | None


def parse_time(text: str) -> int:
    """RFC 3339 to epoch milliseconds.

    Raises:
        CommandError: it is none, or has no offset (whose midnight?).
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as exc:
        raise CommandError(f"{text!r} is no RFC 3339 time; an example: 2026-01-31T12:00:00Z") from exc
    if moment.tzinfo is None:
        raise CommandError(f"{text!r} has no UTC offset; write {text}Z for UTC")
    return int(moment.astimezone(UTC).timestamp() * 1000)


async def plan_reset(settings: Settings, to_ms: int | None, agents: Sequence[str] = DEFAULT_AGENTS) -> ResetPlan:
    """Look, change nothing. ``to_ms`` None: the earliest record there is.

    Raises:
        CommandError: a worker runs.
        KafkaConnectError, UnknownTopicError, RedisUnavailable: something cannot be looked at.
    """
    async with open_admin(settings) as admin, _group_consumer(settings) as consumer:
        await refuse_members(admin, settings)
        topics = dict.fromkeys(AGENTS[agent] for agent in running(settings))
        source = [TopicPartition(topic, number) for topic in topics for number in await admin.partitions(topic)]
        rewinds = await _rewinds(consumer, source, to_ms)
        changelogs: dict[str, int] = {}
        for tps in [await _changelog(admin, settings, agent) for agent in running(settings, agents)]:
            begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            changelogs[tps[0].topic] = sum(ends[tp] - begins[tp] for tp in tps)
    return ResetPlan(tuple(rewinds), changelogs, await _count_lookups(settings))


async def carry_out(settings: Settings, plan: ResetPlan, say: Say, agents: Sequence[str] = DEFAULT_AGENTS) -> ResetDone:
    """Do it, in the order of the module's docstring. Safe to repeat.

    Raises:
        CommandError: a worker runs, or Kafka refused a step; says which steps are done.
    """
    epoch = str(uuid.uuid4())
    async with open_admin(settings) as admin:
        await refuse_members(admin, settings)
        await _commit(settings, plan.rewinds)
        say(f"committed the new offsets of {len(plan.rewinds)} source partitions for group {settings.app_id}")
        changelogs = [tp for agent in running(settings, agents) for tp in await _changelog(admin, settings, agent)]
        resets = await _append_resets(settings, changelogs, epoch)
        say(f"appended reset record {epoch} to {len(resets)} changelog partitions")
        await _delete_before(admin, resets)
        say("deleted the changelog records before it")
    try:
        keys = await _delete_lookups(settings)
    except RedisUnavailable as exc:
        raise CommandError(f"state is reset, but old lookups are still in Redis; run this command again. {exc}") from exc
    say("no Redis is configured" if keys is None else f"deleted {keys} keys in Redis")
    return ResetDone(epoch, len(plan.rewinds), len(resets), keys)


async def refuse_members(admin: KafkaTopicAdmin, settings: Settings) -> None:
    """Workers must be stopped: a running one holds the old state in memory and would write it back.

    Raises:
        CommandError: the group has members, or a worker holds this data directory.
    """
    members = await group_members(admin, settings.app_id)
    if members:
        seconds = settings.kafka_session_timeout_ms / 1000
        raise CommandError(
            f"group {settings.app_id} has {len(members)} member(s): {', '.join(members)}. "
            f"Stop all workers first; one that was killed leaves the group after {seconds:.0f} s"
        )
    owner = lock_owner(settings.data_dir)
    if owner is not None:
        raise CommandError(f"the worker with pid {owner} runs on {settings.data_dir}. Stop it first")


async def group_members(admin: KafkaTopicAdmin, group: str) -> list[str]:
    """Client id and host of each member; empty for a group that does not exist."""
    try:
        responses = await admin.client.describe_consumer_groups([group])
    except GroupCoordinatorNotAvailableError:  # a new cluster in which no group ever committed
        return []
    # row: error code, group, state, protocol type, protocol, members; member: member id, client id, host, ...
    return [f"{member[1]} on {member[2]}" for response in responses for row in response.groups for member in row[5]]


@asynccontextmanager
async def _group_consumer(settings: Settings) -> AsyncIterator[aiokafka.AIOKafkaConsumer]:
    """A consumer that may read and commit the group's offsets without joining it."""
    async with open_consumer(settings, group_id=settings.app_id) as consumer:
        yield consumer


async def _changelog(admin: KafkaTopicAdmin, settings: Settings, agent: str) -> list[TopicPartition]:
    topic = changelog_of(settings.app_id, agent)
    return [TopicPartition(topic, number) for number in await admin.partitions(topic)]


async def _rewinds(consumer: aiokafka.AIOKafkaConsumer, source: Sequence[TopicPartition], to_ms: int | None) -> list[Rewind]:
    ends = await consumer.end_offsets(source)
    if to_ms is None:
        targets = await consumer.beginning_offsets(source)
    else:
        found = await consumer.offsets_for_times(dict.fromkeys(source, to_ms))
        # None: no record is that young, so nothing of this partition is read again.
        targets = {tp: ends[tp] if found[tp] is None else found[tp].offset for tp in source}
    targets |= {tp: ends[tp] for tp in source if tp.topic in INTERNAL}  # what will be read again writes it again
    return [Rewind(tp.topic, tp.partition, await consumer.committed(tp), targets[tp], ends[tp]) for tp in source]


async def _commit(settings: Settings, rewinds: Sequence[Rewind]) -> None:
    offsets = {TopicPartition(rewind.topic, rewind.partition): rewind.target for rewind in rewinds}
    async with _group_consumer(settings) as consumer:
        consumer.assign(list(offsets))
        try:
            await consumer.commit(offsets)
        except UnknownMemberIdError as exc:
            raise CommandError(f"a worker joined group {settings.app_id} meanwhile; nothing was changed. Stop it first") from exc
        except KafkaError as exc:
            raise CommandError(f"the offsets of group {settings.app_id} were not committed ({exc!r}); nothing was changed") from exc


async def _append_resets(settings: Settings, changelogs: Sequence[TopicPartition], epoch: str) -> dict[TopicPartition, int]:
    """One reset record per partition. Returns their offsets."""
    value = msgspec.msgpack.encode({"epoch": epoch, "at_ms": time.time_ns() // 1_000_000})
    producer = aiokafka.AIOKafkaProducer(**client_options(settings), acks="all", enable_idempotence=True)
    async with connected(producer, settings):
        sent = [(tp, await producer.send(tp.topic, value, key=RESET_KEY, partition=tp.partition)) for tp in changelogs]
        return {tp: (await future).offset for tp, future in sent}


async def _delete_before(admin: KafkaTopicAdmin, resets: Mapping[TopicPartition, int]) -> None:
    names = sorted({tp.topic for tp in resets})
    before = {name: _without_our_own(topic.overrides) for name, topic in (await admin.describe(names)).items()}
    for name in names:
        await admin.set_config(name, {**before[name], **DELETABLE})
    try:
        await _delete_records(admin, resets)
    finally:
        for name in names:
            await admin.set_config(name, before[name])


async def _delete_records(admin: KafkaTopicAdmin, resets: Mapping[TopicPartition, int]) -> None:
    """Repeated while a partition's leader has not heard of the new policy; another broker may show it earlier."""
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while True:
        try:
            await admin.client.delete_records({tp: RecordsToDelete(offset) for tp, offset in resets.items()})
        except PolicyViolationError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)
        else:
            return


def _without_our_own(overrides: Mapping[str, str]) -> dict[str, str]:
    """The settings to go back to; those that an interrupted reset left behind are not among them."""
    if dict(overrides) | DELETABLE == dict(overrides):
        return {name: value for name, value in overrides.items() if name not in DELETABLE} | {"cleanup.policy": "compact"}
    return dict(overrides)


async def _count_lookups(settings: Settings) -> int | None:
    if not settings.redis_url:
        return None
    async with open_redis(settings) as client:
        return await count_keys(client, settings.app_id)


async def _delete_lookups(settings: Settings) -> int | None:
    if not settings.redis_url:
        return None
    async with open_redis(settings) as client:
        return await delete_keys(client, settings.app_id)


def done_json(done: ResetDone) -> dict[str, Any]:
    return {
        "epoch": done.epoch,
        "committed_partitions": done.committed,
        "changelog_partitions": done.changelog_partitions,
        "redis_keys": done.redis_keys,
    }

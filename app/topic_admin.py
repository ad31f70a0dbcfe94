"""Comparing the topics of a cluster with those this deployment needs, and mending what can be mended.

``veltrix topics`` and the worker's boot use the same comparison. A partition count is never changed here:
keys would move to other partitions, away from their state, so that is a migration.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, NodeNotReadyError, TopicAlreadyExistsError, for_code

from app.kafka_clients import client_options, connected
from app.kafka_topic_ids import NO_TOPIC_ID, TopicIdsRequest
from app.settings import Settings
from app.topics import AGENTS, Topic, all_topics

ProblemKind = Literal["missing", "partitions", "replication", "config"]
DEFAULT_AGENTS: Final = tuple(AGENTS)
#: How long a change may take until the brokers show it.
VISIBLE_TIMEOUT_S: Final = 15.0
DYNAMIC_TOPIC_CONFIG: Final = 1  # DescribeConfigs' config_source: set on the topic itself
FIXED_BY: Final[Mapping[ProblemKind, str]] = {
    "missing": "veltrix topics apply",
    "config": "veltrix topics apply",
    "partitions": "a migration to new topics (keys would leave their state), or VELTRIX_PARTITIONS set to what exists",
    "replication": "kafka-reassign-partitions.sh, or VELTRIX_REPLICATION_FACTOR",
}


class TopicAdminError(Exception):
    """The cluster refused to show or change topics. The message names topic and reason."""


class UnknownTopicError(Exception):
    """A named topic does not exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        close = difflib.get_close_matches(name, list(known), 1)
        hint = f"did you mean {close[0]}?" if close else "`veltrix topics apply` makes those that Veltrix needs"
        super().__init__(f"Topic {name} does not exist; {hint}")
        self.name = name


@dataclass(frozen=True, slots=True)
class FoundTopic:
    """One topic as it is. ``config`` holds the values in force, ``overrides`` those set on the topic itself."""

    partitions: int
    replication_factor: int
    config: Mapping[str, str]
    overrides: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Problem:
    """One difference between what must be and what is. ``setting`` is a config name, else the kind."""

    topic: str
    kind: ProblemKind
    setting: str
    expected: str
    actual: str

    @property
    def fixed_by(self) -> str:
        """The command or the work that mends it."""
        return FIXED_BY[self.kind]

    @property
    def stops_worker(self) -> bool:
        """A worker must not start: it would lose state or records. Other differences are warnings."""
        return self.kind in ("missing", "partitions")

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"topic {self.topic} is missing (mend: {self.fixed_by})"
        return f"topic {self.topic}: {self.setting} is {self.actual}, must be {self.expected} (mend: {self.fixed_by})"


@dataclass(frozen=True, slots=True)
class Applied:
    """What ``apply_topics`` did and what it had to leave."""

    created: tuple[str, ...]
    altered: tuple[Problem, ...]
    left: tuple[Problem, ...]


class TopicAdmin(Protocol):
    """The calls to a cluster that are needed here; tests use a fake."""

    async def describe(self, names: Sequence[str]) -> dict[str, FoundTopic]:
        """Those of ``names`` that exist."""
        ...

    async def create(self, topics: Sequence[Topic], replication_factor: int) -> None:
        """Create; one that exists meanwhile is no error."""
        ...

    async def set_config(self, name: str, overrides: Mapping[str, str]) -> None:
        """Replace all settings of the topic by ``overrides``."""
        ...


def compare(wanted: Iterable[Topic], found: Mapping[str, FoundTopic], replication_factor: int = 1) -> list[Problem]:
    """All differences, in the order of ``wanted``. More replicas than wanted are none."""
    problems: list[Problem] = []
    for topic in wanted:
        there = found.get(topic.name)
        if there is None:
            problems.append(Problem(topic.name, "missing", "missing", f"{topic.partitions} partitions", "-"))
            continue
        if there.partitions != topic.partitions:
            problems.append(Problem(topic.name, "partitions", "partitions", str(topic.partitions), str(there.partitions)))
        if there.replication_factor < replication_factor:
            have = str(there.replication_factor)
            problems.append(Problem(topic.name, "replication", "replication factor", str(replication_factor), have))
        for name, value in sorted(topic.config.items()):
            if there.config.get(name) != value:
                problems.append(Problem(topic.name, "config", name, value, there.config.get(name, "-")))
    return problems


async def check_topics(settings: Settings, agents: Iterable[str] = DEFAULT_AGENTS) -> list[Problem]:
    """Differences between the cluster and ``all_topics(settings, agents)``; empty when all is well.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
        TopicAdminError: it does not let us look.
    """
    wanted = all_topics(settings, agents)
    async with open_admin(settings) as admin:
        found = await admin.describe([topic.name for topic in wanted])
    return compare(wanted, found, settings.replication_factor)


async def apply_topics(settings: Settings, agents: Iterable[str] = DEFAULT_AGENTS) -> Applied:
    """Create what is missing, correct configuration that differs; never touch a partition count.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
        TopicAdminError: it refused a change; what was done before stays done, repeating is safe.
    """
    async with open_admin(settings) as admin:
        return await apply_with(admin, all_topics(settings, agents), settings.replication_factor)


async def apply_with(admin: TopicAdmin, wanted: Sequence[Topic], replication_factor: int) -> Applied:
    """``apply_topics`` over any ``TopicAdmin``."""
    names = [topic.name for topic in wanted]
    missing = [topic for topic in wanted if topic.name not in await admin.describe(names)]
    if missing:
        await admin.create(missing, replication_factor)
    found = await admin.describe(names)
    problems = compare(wanted, found, replication_factor)
    differing = [problem for problem in problems if problem.kind == "config"]
    by_name = {topic.name: topic for topic in wanted}
    for name in dict.fromkeys(problem.topic for problem in differing):
        # The broker replaces the whole set: overrides that somebody else made must go along.
        await admin.set_config(name, {**found[name].overrides, **by_name[name].config})
    left = [problem for problem in problems if problem.kind != "config"]
    return Applied(tuple(topic.name for topic in missing), tuple(differing), tuple(left))


async def topic_ids(settings: Settings, names: Sequence[str]) -> dict[str, bytes]:
    """Kafka's id of each of ``names`` that exists; see :meth:`KafkaTopicAdmin.ids`.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
        TopicAdminError: it does not let us look.
    """
    async with open_admin(settings) as admin:
        return await admin.ids(names)


@asynccontextmanager
async def open_admin(settings: Settings) -> AsyncIterator[KafkaTopicAdmin]:
    """A connected ``KafkaTopicAdmin``.

    Raises:
        KafkaConnectError: the cluster cannot be reached.
        TopicAdminError: it fails or refuses while in use.
    """
    client = AIOKafkaAdminClient(**client_options(settings))
    async with connected(_Startable(client), settings):
        try:
            yield KafkaTopicAdmin(client)
        except NodeNotReadyError as exc:
            raise TopicAdminError(
                "the broker tells its clients an address that cannot be reached: check advertised.listeners"
            ) from exc
        except KafkaError as exc:
            raise TopicAdminError(f"Kafka refused: {exc!r}") from exc


class KafkaTopicAdmin:
    """``TopicAdmin`` on a real cluster."""

    def __init__(self, client: AIOKafkaAdminClient) -> None:
        self.client = client

    async def names(self) -> list[str]:
        """Every topic of the cluster."""
        return sorted(await self.client.list_topics())

    async def partitions(self, topic: str) -> list[int]:
        """Partition numbers of a topic.

        Raises:
            UnknownTopicError: it does not exist. Asking never creates it.
        """
        # All topics, on purpose: a metadata request that names a topic creates it where the broker allows that.
        described = {row["topic"]: row for row in await self.client.describe_topics()}
        if topic not in described:
            raise UnknownTopicError(topic, described)
        return sorted(row["partition"] for row in described[topic]["partitions"])

    async def describe(self, names: Sequence[str]) -> dict[str, FoundTopic]:
        there = {row["topic"]: row["partitions"] for row in await self.client.describe_topics() if row["topic"] in names}
        configs = await self._configs(sorted(there))
        return {
            name: FoundTopic(len(rows), min((len(row["replicas"]) for row in rows), default=0), *configs[name])
            for name, rows in there.items()
        }

    async def ids(self, names: Sequence[str]) -> dict[str, bytes]:
        """Kafka's 16-byte id of each of ``names`` that exists: a topic made again under its old name has another one.

        Empty for a broker without topic ids (before Kafka 2.8, or with ZooKeeper before its topics were upgraded).
        """
        try:
            response = await self.client._send_request(TopicIdsRequest(names))
        except NotImplementedError:  # aiokafka: the broker does not speak this version
            return {}
        return {name: topic_id for _, name, topic_id, *_ in response.topics if topic_id != NO_TOPIC_ID and name in names}

    async def create(self, topics: Sequence[Topic], replication_factor: int) -> None:
        response = await self.client.create_topics(
            [NewTopic(topic.name, topic.partitions, replication_factor, topic_configs=dict(topic.config)) for topic in topics]
        )
        for name, code, *message in response.topic_errors:
            if code not in (0, TopicAlreadyExistsError.errno):
                raise TopicAdminError(f"topic {name} was not created: {_reason(code, *message)}")
        names = [topic.name for topic in topics]
        await self._wait(lambda: self._all_led(names), f"{', '.join(names)}: created, but without leaders")

    async def set_config(self, name: str, overrides: Mapping[str, str]) -> None:
        resource = ConfigResource(ConfigResourceType.TOPIC, name, dict(overrides))
        for response in await self.client.alter_configs([resource]):
            for code, message, *_ in response.resources:
                if code:
                    raise TopicAdminError(f"topic {name} was not altered: {_reason(code, message)}")
        await self._wait(lambda: self._has_overrides(name, overrides), f"{name}: altered, but not in force")

    async def _configs(self, names: Sequence[str]) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        if not names:
            return {}
        found: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        for response in await self.client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names]):
            for code, message, _, name, entries in response.resources:
                if code:
                    raise TopicAdminError(f"topic {name}: its configuration cannot be read: {_reason(code, message)}")
                # entry: name, value, read only, source (v1+: where the value comes from), sensitive, ...
                values = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
                overrides = {entry[0]: entry[1] for entry in entries if entry[3] == DYNAMIC_TOPIC_CONFIG and entry[1] is not None}
                found[name] = values, overrides
        return found

    async def _wait(self, is_done: Callable[[], Awaitable[bool]], what: str) -> None:
        """The controller answers before the brokers have taken a change over (2-60 ms later on an idle machine)."""
        try:
            async with asyncio.timeout(VISIBLE_TIMEOUT_S):
                while not await is_done():  # noqa: ASYNC110  the broker has no call to wait on
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise TopicAdminError(f"{what} after {VISIBLE_TIMEOUT_S:.0f} s") from None

    async def _has_overrides(self, name: str, overrides: Mapping[str, str]) -> bool:
        return (await self.describe([name]))[name].overrides == overrides

    async def _all_led(self, names: Sequence[str]) -> bool:
        rows = {row["topic"]: row["partitions"] for row in await self.client.describe_topics()}
        return all(rows.get(name) and all(row["leader"] >= 0 for row in rows[name]) for name in names)


class _Startable:
    """aiokafka's admin client says ``close`` where the other clients say ``stop``."""

    def __init__(self, client: AIOKafkaAdminClient) -> None:
        self._client = client

    async def start(self) -> None:
        await self._client.start()

    async def stop(self) -> None:
        await self._client.close()


def _reason(code: int, message: Any = None) -> str:
    return str(message) if message else f"{for_code(code).__name__} (code {code})"

"""Comparing and mending topics, on a fake cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from app.settings import Settings
from app.topic_admin import FoundTopic, KafkaTopicAdmin, Problem, UnknownTopicError, apply_with, compare
from app.topics import Topic, all_topics

WANTED = [
    Topic("interactions", 10, "ingest", {"max.message.bytes": "1048576"}),
    Topic("changelog", 10, "engine", {"cleanup.policy": "compact", "max.message.bytes": "1052672"}),
]


class FakeCluster:
    """Topics in memory; ``set_config`` replaces, as the broker does."""

    def __init__(self, **topics: FoundTopic) -> None:
        self.topics = dict(topics)
        self.changes: list[str] = []

    async def describe(self, names: Sequence[str]) -> dict[str, FoundTopic]:
        return {name: self.topics[name] for name in names if name in self.topics}

    async def create(self, topics: Sequence[Topic], replication_factor: int) -> None:
        for topic in topics:
            self.changes.append(f"create {topic.name}")
            self.topics[topic.name] = found(topic, replication_factor=replication_factor)

    async def set_config(self, name: str, overrides: Mapping[str, str]) -> None:
        self.changes.append(f"alter {name}")
        self.topics[name] = replace(self.topics[name], config=dict(overrides), overrides=dict(overrides))


def found(topic: Topic, *, replication_factor: int = 1, **config: str) -> FoundTopic:
    values = {**topic.config, **{name.replace("_", "."): value for name, value in config.items()}}
    return FoundTopic(topic.partitions, replication_factor, values, values)


def as_wanted() -> FakeCluster:
    return FakeCluster(**{topic.name: found(topic) for topic in WANTED})


def test_equal_topics_have_no_problems() -> None:
    assert compare(WANTED, as_wanted().topics) == []


def test_every_topic_of_an_empty_cluster_is_missing() -> None:
    problems = compare(WANTED, {})

    assert [(p.topic, p.kind) for p in problems] == [("interactions", "missing"), ("changelog", "missing")]
    assert all(p.stops_worker and p.fixed_by == "veltrix topics apply" for p in problems)


def test_a_partition_count_is_a_migration_and_stops_the_worker() -> None:
    (problem,) = compare([replace(WANTED[0], partitions=4)], as_wanted().topics)

    assert (problem.kind, problem.expected, problem.actual) == ("partitions", "4", "10")
    assert problem.stops_worker
    assert "migration" in problem.fixed_by
    assert "interactions: partitions is 10, must be 4" in str(problem)


def test_a_configuration_that_differs_is_no_reason_to_stop_a_worker() -> None:
    cluster = FakeCluster(interactions=found(WANTED[0], max_message_bytes="100"))

    (problem,) = compare(WANTED[:1], cluster.topics)

    assert (problem.kind, problem.setting, problem.actual) == ("config", "max.message.bytes", "100")
    assert not problem.stops_worker


def test_too_few_replicas_are_a_problem_and_more_are_none() -> None:
    assert [p.kind for p in compare(WANTED, as_wanted().topics, replication_factor=3)] == ["replication", "replication"]
    more = {topic.name: found(topic, replication_factor=3) for topic in WANTED}
    assert compare(WANTED, more, replication_factor=1) == []


async def test_applying_twice_changes_nothing_the_second_time() -> None:
    cluster = FakeCluster()

    first = await apply_with(cluster, WANTED, 1)
    cluster.changes.clear()
    second = await apply_with(cluster, WANTED, 1)

    assert first.created == ("interactions", "changelog")
    assert (second.created, second.altered, second.left) == ((), (), ())
    assert cluster.changes == []


async def test_applying_corrects_configuration_and_keeps_what_others_set() -> None:
    cluster = as_wanted()
    cluster.topics["changelog"] = found(WANTED[1], cleanup_policy="delete", segment_bytes="1000")

    applied = await apply_with(cluster, WANTED, 1)

    assert cluster.changes == ["alter changelog"]
    assert cluster.topics["changelog"].overrides == {**WANTED[1].config, "segment.bytes": "1000"}
    assert [(p.setting, p.actual, p.expected) for p in applied.altered] == [("cleanup.policy", "delete", "compact")]


async def test_applying_never_touches_a_partition_count() -> None:
    cluster = as_wanted()

    applied = await apply_with(cluster, [replace(WANTED[0], partitions=4)], 1)

    assert [p.kind for p in applied.left] == ["partitions"]
    assert cluster.changes == []
    assert cluster.topics["interactions"].partitions == 10


def test_a_mistyped_topic_gets_a_suggestion() -> None:
    assert "did you mean interactions?" in str(UnknownTopicError("interaction", ["interactions", "x"]))
    assert "veltrix topics apply" in str(UnknownTopicError("zzz", ["interactions"]))


def test_all_topics_of_the_defaults_can_be_compared() -> None:
    settings = Settings()
    topics = all_topics(settings)

    assert compare(topics, {topic.name: found(topic) for topic in topics}) == []
    assert Problem("a", "missing", "missing", "1", "-").stops_worker


class FakeIdsClient:
    """aiokafka's admin client, as far as ids are asked for; without topics it is a broker that does not know them."""

    def __init__(self, *topics: tuple[Any, ...]) -> None:
        self.topics = topics

    async def _send_request(self, request: Any) -> Any:
        if not self.topics:
            raise NotImplementedError
        return SimpleNamespace(topics=self.topics)


async def test_only_topics_that_exist_have_an_id() -> None:
    unknown_topic = 3
    client = FakeIdsClient((0, "a", b"a" * 16, False), (unknown_topic, "b", bytes(16), False), (0, "other", b"o" * 16, False))

    assert await KafkaTopicAdmin(client).ids(["a", "b"]) == {"a": b"a" * 16}


async def test_a_broker_without_topic_ids_has_none() -> None:
    assert await KafkaTopicAdmin(FakeIdsClient()).ids(["a"]) == {}

"""Dealing out partitions: never a split group, everything once, balanced, sticky."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import PartitionAssignor
from hypothesis import given
from hypothesis import strategies as st

from app.engine.assignor import GroupAssignor, MemberAssignor, assignor_of, deal_groups, deal_standbys, member_url
from app.settings import Settings

SOURCE, RETRY, CHANGELOG = "interactions", "retry", "app-changelog"
TOPICS = (SOURCE, RETRY, CHANGELOG)


class Cluster:
    """aiokafka's metadata, as far as an assignor looks at it."""

    def __init__(self, partitions: Mapping[str, int]) -> None:
        self._partitions = partitions

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return set(range(self._partitions[topic])) if topic in self._partitions else None


class Fleet:
    """Workers that join and leave; each remembers its assignment as Faust does, in its metadata."""

    def __init__(self, groups: int, partitions: int, replicas: int = 0) -> None:
        self.groups = groups
        self.cluster: Any = Cluster(dict.fromkeys(TOPICS, partitions))
        self.workers: dict[str, GroupAssignor] = {}
        self.topics: dict[str, set[str]] = {}
        self._replicas = replicas

    def join(self, name: str, topics: Iterable[str] = TOPICS) -> None:
        settings = Settings(processing_guarantee="exactly_once", transaction_groups=self.groups, group_instance_id=name)
        self.workers[name] = cast("GroupAssignor", new_assignor(settings, self._replicas))
        self.topics[name] = set(topics)

    def leave(self, name: str) -> None:
        del self.workers[name], self.topics[name]

    def rebalance(self) -> dict[str, ClientAssignment]:
        leader = next(iter(self.workers.values()))
        metadata = {name: worker.metadata(self.topics[name]) for name, worker in self.workers.items()}
        made = leader.assign(self.cluster, cast("Any", metadata))
        for name, worker in self.workers.items():
            worker.on_assignment(cast("Any", made[name]))
        return {name: worker._assignment for name, worker in self.workers.items()}

    def groups_of(self, assignment: ClientAssignment, *, active: bool = True) -> set[int]:
        topics = assignment.actives if active else assignment.standbys
        return {partition % self.groups for partitions in topics.values() for partition in partitions}


def new_assignor(settings: Settings, replicas: int = 0) -> Any:
    """The assignor that ``settings`` ask for, on an app that is not there."""
    app = SimpleNamespace(
        tables=SimpleNamespace(changelog_topics={CHANGELOG}, data={}),
        engine=SimpleNamespace(settings=settings),
        tracer=None,
        sensors=SimpleNamespace(
            on_assignment_start=lambda _: {}, on_assignment_completed=lambda *_: None, on_assignment_error=lambda *_: None
        ),
        conf=SimpleNamespace(canonical_url="http://never-used"),
    )
    return assignor_of(settings)(cast("Any", app), replicas=replicas)


def assert_sound(fleet: Fleet, assignments: Mapping[str, ClientAssignment], partitions: int) -> None:
    """Every partition of every topic is somebody's, once; a group is one worker's; shares differ by one at most."""
    for topic in TOPICS:
        owners = Counter(partition for assignment in assignments.values() for partition in assignment.actives[topic])
        assert owners == dict.fromkeys(range(partitions), 1)
    shares = {name: fleet.groups_of(assignment) for name, assignment in assignments.items()}
    for name, assignment in assignments.items():
        whole = [p for p in range(partitions) if p % fleet.groups in shares[name]]
        assert all(sorted(assignment.actives[topic]) == whole for topic in TOPICS), "a group is split"
    sizes = [len(share) for share in shares.values()]
    assert max(sizes) - min(sizes) <= 1


def assert_standbys(fleet: Fleet, assignments: Mapping[str, ClientAssignment], replicas: int, partitions: int) -> None:
    copies = Counter(g for assignment in assignments.values() for g in fleet.groups_of(assignment, active=False))
    wanted = min(replicas, len(assignments) - 1)
    assert copies == Counter(dict.fromkeys(range(min(fleet.groups, partitions)), wanted) if wanted else {})
    for assignment in assignments.values():
        assert not fleet.groups_of(assignment) & fleet.groups_of(assignment, active=False)


@given(
    groups=st.integers(1, 9),
    partitions=st.integers(1, 24),
    replicas=st.integers(0, 2),
    changes=st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=12),
)
def test_any_membership_history_keeps_groups_whole_balanced_and_in_place(
    groups: int, partitions: int, replicas: int, changes: list[tuple[bool, int]]
) -> None:
    fleet = Fleet(groups, partitions, replicas)
    fleet.join("w0")
    for joins, number in changes:
        name = f"w{number}"
        if joins and name not in fleet.workers:
            fleet.join(name)
        elif not joins and name in fleet.workers and len(fleet.workers) > 1:
            fleet.leave(name)
        first = fleet.rebalance()
        again = fleet.rebalance()
        assert_sound(fleet, first, partitions)
        assert_standbys(fleet, first, replicas, partitions)
        assert [fleet.groups_of(a) for a in again.values()] == [fleet.groups_of(a) for a in first.values()], (
            "nothing changed, groups moved"
        )
        assert [fleet.groups_of(a, active=False) for a in again.values()] == [
            fleet.groups_of(a, active=False) for a in first.values()
        ], "nothing changed, copies moved"


@given(
    held=st.dictionaries(st.text("abc", min_size=1, max_size=2), st.frozensets(st.integers(0, 11)), min_size=1, max_size=8),
    count=st.integers(1, 10),
)
def test_claims_of_zombies_and_of_groups_that_are_gone_change_nothing_of_that(held: dict[str, frozenset[int]], count: int) -> None:
    deal = deal_groups(set(range(count)), held, dict.fromkeys(held, frozenset()))

    assert sorted(group for share in deal.values() for group in share) == list(range(count))
    sizes = [len(share) for share in deal.values()]
    assert max(sizes) - min(sizes) <= 1


@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6), leaving=st.integers(0, 5))
def test_no_group_moves_between_workers_that_stay_when_one_leaves(sizes: list[int], leaving: int) -> None:
    names = [f"w{n}" for n in range(len(sizes))]
    start = deal_groups(set(range(sum(sizes) + 1)), dict.fromkeys(names, frozenset()), dict.fromkeys(names, frozenset()))
    stays = {name: share for name, share in start.items() if name != f"w{leaving}"} or start

    deal = deal_groups(set(range(sum(sizes) + 1)), stays, dict.fromkeys(stays, frozenset()))

    assert all(share <= deal[name] for name, share in stays.items())


def test_surplus_workers_have_no_partitions() -> None:
    fleet = Fleet(groups=2, partitions=10)
    for name in ("a", "b", "c"):
        fleet.join(name)

    shares = fleet.rebalance()

    assert sorted(sum(map(len, a.actives.values())) for a in shares.values()) == [0, 15, 15]


def test_a_surplus_worker_keeps_copies_and_takes_over_when_one_is_lost() -> None:
    fleet = Fleet(groups=2, partitions=8, replicas=1)
    for name in ("a", "b", "c"):
        fleet.join(name)
    before = fleet.rebalance()
    surplus = next(name for name, assignment in before.items() if not fleet.groups_of(assignment))
    copies = fleet.groups_of(before[surplus], active=False)
    lost = next(name for name, assignment in before.items() if fleet.groups_of(assignment) & copies)

    fleet.leave(lost)
    after = fleet.rebalance()

    assert fleet.groups_of(after[surplus]) == fleet.groups_of(before[lost]) == copies


def test_a_larger_share_goes_to_who_is_warm_for_the_lost_group() -> None:
    deal = deal_groups({0, 1, 2}, {"a": {0}, "b": {1}}, {"a": set(), "b": {2}})

    assert deal == {"a": {0}, "b": {1, 2}}


def test_standby_copies_spread_over_the_workers() -> None:
    standbys = deal_standbys({0, 1, 2, 3}, {"a": {0, 1}, "b": {2, 3}, "c": set()}, {"a": set(), "b": set(), "c": set()}, 1)

    assert sorted(len(share) for share in standbys.values()) == [1, 1, 2]


def test_the_consumer_fetches_standby_copies_of_changelogs_only() -> None:
    fleet = Fleet(groups=2, partitions=4, replicas=1)
    fleet.join("a")
    fleet.join("b")
    leader = fleet.workers["a"]
    metadata = {name: worker.metadata(set(TOPICS)) for name, worker in fleet.workers.items()}

    made = leader.assign(fleet.cluster, cast("Any", metadata))

    assigned = dict(cast("Any", made["a"]).assignment)
    assert sorted(assigned[CHANGELOG]) == [0, 1, 2, 3]
    assert len(assigned[SOURCE]) == 2


def test_a_topic_that_not_every_worker_reads_waits_for_all() -> None:
    fleet = Fleet(groups=2, partitions=4)
    fleet.join("new", (*TOPICS, "new-source"))
    fleet.join("old")
    fleet.cluster = Cluster({**dict.fromkeys(TOPICS, 4), "new-source": 4})

    mixed = fleet.rebalance()
    assert all("new-source" not in assignment.actives for assignment in mixed.values())

    fleet.leave("old")
    fleet.join("old", (*TOPICS, "new-source"))
    shares = fleet.rebalance()
    assert sorted(p for assignment in shares.values() for p in assignment.actives["new-source"]) == [0, 1, 2, 3]
    for assignment in shares.values():
        assert assignment.actives["new-source"] == assignment.actives[SOURCE]


def test_a_topic_with_more_partitions_keeps_to_the_same_groups() -> None:
    fleet = Fleet(groups=3, partitions=6)
    fleet.cluster = Cluster({SOURCE: 6, RETRY: 12, CHANGELOG: 6})
    fleet.join("a")
    fleet.join("b")

    for assignment in fleet.rebalance().values():
        groups = {p % 3 for p in assignment.actives[SOURCE]}
        assert groups == {p % 3 for p in assignment.actives[RETRY]}


def test_a_missing_topic_is_left_out() -> None:
    fleet = Fleet(groups=2, partitions=4)
    fleet.cluster = Cluster({SOURCE: 4, CHANGELOG: 4})
    fleet.join("a")

    assert sorted(fleet.rebalance()["a"].actives) == sorted([SOURCE, CHANGELOG])


def test_workers_of_another_guarantee_or_group_count_do_not_form_a_group() -> None:
    names = {
        new_assignor(Settings()).name,
        new_assignor(Settings(processing_guarantee="exactly_once")).name,
        new_assignor(Settings(processing_guarantee="exactly_once", transaction_groups=8)).name,
    }
    assert len(names) == 3  # the broker refuses a member with another protocol name


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_a_static_member_that_moved_accepts_the_assignment_it_had(guarantee: Any) -> None:
    before = new_assignor(Settings(processing_guarantee=guarantee, group_instance_id="pod-0", sidecar_port=8080))
    after = new_assignor(Settings(processing_guarantee=guarantee, group_instance_id="pod-0", sidecar_port=9090))
    cluster: Any = Cluster(dict.fromkeys(TOPICS, 4))
    made = before.assign(cluster, {"id-1": before.metadata(set(TOPICS))})["id-1"]

    after.on_assignment(made)

    assert {tuple(tp) for tp in after.assigned_actives()} == {(topic, number) for topic in TOPICS for number in range(4)}


def test_a_dynamic_member_is_named_by_host_and_port_and_a_named_one_by_its_name() -> None:
    assert str(member_url(Settings(sidecar_port=8081))).endswith(":8081")
    assert str(member_url(Settings(worker_id="Blue", sidecar_port=8081))) == "veltrix:/Blue"
    assert str(member_url(Settings(worker_id="Blue", group_instance_id="pod-1"))) == "veltrix:/pod-1"


def test_at_least_once_keeps_fausts_own_dealing() -> None:
    assert assignor_of(Settings()) is MemberAssignor
    assert MemberAssignor._perform_assignment is PartitionAssignor._perform_assignment


def test_what_members_exchange_is_what_faust_reads() -> None:
    fleet = Fleet(groups=2, partitions=4)
    fleet.join("a")
    metadata = fleet.workers["a"].metadata(set(TOPICS))
    assert isinstance(metadata, ConsumerProtocolMemberMetadata)

    made = cast("Any", fleet.workers["a"].assign(fleet.cluster, cast("Any", {"a": metadata}))["a"])

    read = cast("ClientMetadata", ClientMetadata.loads(zlib.decompress(made.user_data)))
    assert read.topic_groups.keys() == set(TOPICS)
    assert read.changelog_distribution == {"veltrix:/a": {CHANGELOG: [0, 1, 2, 3]}}

"""Which worker gets which partitions.

``MemberAssignor`` is Faust's assignor with a name for each member that survives a restart. ``GroupAssignor``, for
exactly-once, deals out whole transaction groups (partition % G, of every topic): a group has one transactional id,
and two workers that share an id fence each other for ever.

The deal itself is two pure functions. It is balanced (no worker has two groups more than another), sticky (a worker
keeps what it has while that is balanced) and complete; with more workers than groups the surplus gets none. Standby
copies are dealt after it, by group too and as level as can be, to workers without the group. A lost worker's group
goes to who is warm for it, if there is a choice.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, cast

import structlog
from aiokafka.cluster import ClusterMetadata
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata
from faust.assignor.partition_assignor import MemberAssignmentMapping, MemberMetadataMapping, PartitionAssignor
from yarl import URL

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp
    from app.settings import Settings

log = structlog.get_logger(__name__)

#: Transaction groups by member id.
Deal = dict[str, set[int]]
Held = Mapping[str, Set[int]]


class MemberAssignor(PartitionAssignor):
    """Faust's assignor; a static member's name does not change with its host or port.

    Faust names a member by its web server's URL and asserts that an assignment bears the URL of whom it is for. A
    static member that restarts elsewhere gets the assignment it had, with its old URL.
    """

    @property
    def _settings(self) -> Settings:
        return cast("EngineApp", self.app).engine.settings

    @property
    def _url(self) -> URL:
        return member_url(self._settings)


class GroupAssignor(MemberAssignor):
    """Deals out transaction groups; see the module's docstring."""

    @property
    def name(self) -> str:
        """Members must agree on it: the broker refuses a worker with another G, or with another guarantee."""
        return f"veltrix-groups-{self._settings.transaction_groups}"

    def _perform_assignment(self, cluster: ClusterMetadata, member_metadata: MemberMetadataMapping) -> MemberAssignmentMapping:
        members = {name: cast("ClientMetadata", ClientMetadata.loads(data.user_data)) for name, data in member_metadata.items()}
        self._update_member_urls(members)
        topics = _partitions_of(_topics_of_all({m: metadata.subscription for m, metadata in member_metadata.items()}), cluster)
        count = self._settings.transaction_groups
        groups = {partition % count for partitions in topics.values() for partition in partitions}
        copies = {member: _groups_of(metadata.assignment.standbys, count) for member, metadata in members.items()}
        actives = deal_groups(groups, {m: _groups_of(data.assignment.actives, count) for m, data in members.items()}, copies)
        standbys = deal_standbys(groups, actives, copies, self.replicas)
        assignments = {
            member: ClientAssignment(
                actives=_members_share(topics, actives[member], count), standbys=_members_share(topics, standbys[member], count)
            )
            for member in members
        }
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            dict.fromkeys(topics, 0),
        )


def member_url(settings: Settings) -> URL:
    """Name of this worker in the group's metadata: of its identity, not of where it runs, if it has one."""
    name = settings.group_instance_id or settings.worker_id or f"{socket.gethostname()}:{settings.sidecar_port}"
    return URL.build(scheme="veltrix", path=f"/{name}")


def deal_groups(groups: Set[int], held: Held, copies: Held) -> Deal:
    """Who works on which group.

    Args:
        groups: all of them.
        held: what each member had, empty for a new one; its keys are the members. Two may claim one group (a zombie).
        copies: of which groups a member has a warm standby copy.

    Returns:
        Each group once; sizes differ by at most one.
    """
    orphans = groups - set().union(*held.values())
    # The larger shares go to who has most already, then to who is warm for what nobody has.
    order = sorted(held, key=lambda member: (-len(held[member] & groups), -len(copies[member] & orphans), member))
    least, larger = divmod(len(groups), len(order))
    capacity = {member: least + (position < larger) for position, member in enumerate(order)}
    deal: Deal = {}
    left = set(groups)
    for member in order:
        deal[member] = set(sorted(held[member] & left)[: capacity[member]])
        left -= deal[member]
    for warm in (True, False):
        for group in sorted(left):
            takers = [m for m in order if len(deal[m]) < capacity[m] and (not warm or group in copies[m])]
            if takers:
                deal[min(takers, key=lambda m: (len(deal[m]), m))].add(group)
                left.remove(group)
    return deal


def deal_standbys(groups: Set[int], actives: Held, copies: Held, replicas: int) -> Deal:
    """Who keeps a warm copy of which group: ``replicas`` members each (fewer if there are not so many), never its worker."""
    wanted = min(replicas, len(actives) - 1)
    deal: Deal = {member: set() for member in actives}
    missing = dict.fromkeys(groups, wanted)
    for member in sorted(actives):  # what is there stays
        for group in sorted((copies[member] & groups) - actives[member]):
            if missing[group]:
                deal[member].add(group)
                missing[group] -= 1
    for group, count in sorted(missing.items()):
        free = [member for member in actives if group not in actives[member] | deal[member]]
        for member in sorted(free, key=lambda m: (len(deal[m]), len(actives[m]), m))[:count]:
            deal[member].add(group)
    while move := _levelling_move(deal, actives):
        giver, taker, group = move
        deal[giver].remove(group)
        deal[taker].add(group)
    return deal


def _levelling_move(deal: Deal, actives: Held) -> tuple[str, str, int] | None:
    """A copy to move from a member with many to one with at least two fewer; None: level. Each move levels, so moves end."""
    by_size = sorted(deal, key=lambda member: (len(deal[member]), member))
    return next(
        (
            (giver, taker, min(movable))
            for giver in reversed(by_size)
            for taker in by_size
            if len(deal[giver]) - len(deal[taker]) > 1 and (movable := deal[giver] - deal[taker] - actives[taker])
        ),
        None,
    )


def _topics_of_all(subscriptions: Mapping[str, Iterable[str]]) -> set[str]:
    """Topics that every member reads.

    While two versions of the worker run, a topic of one of them alone waits: assigned by itself it would split a group.
    """
    everybody = [set(topics) for topics in subscriptions.values()]
    common, known = set.intersection(*everybody), set.union(*everybody)
    if common != known:
        log.warning("topics_wait_for_all_workers", topics=sorted(known - common))
    return common


def _partitions_of(topics: Iterable[str], cluster: ClusterMetadata) -> dict[str, list[int]]:
    found = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in sorted(topics)}
    if missing := [topic for topic, partitions in found.items() if not partitions]:
        log.warning("topics_missing", topics=missing)
    return {topic: partitions for topic, partitions in found.items() if partitions}


def _groups_of(assigned: Mapping[str, Iterable[int]], count: int) -> set[int]:
    return {partition % count for partitions in assigned.values() for partition in partitions}


def _members_share(topics: Mapping[str, list[int]], groups: Set[int], count: int) -> dict[str, list[int]]:
    return {topic: [partition for partition in partitions if partition % count in groups] for topic, partitions in topics.items()}


def assignor_of(settings: Settings) -> type[PartitionAssignor]:
    """The class that Faust's ``PartitionAssignor`` setting takes."""
    return GroupAssignor if settings.processing_guarantee == "exactly_once" else MemberAssignor

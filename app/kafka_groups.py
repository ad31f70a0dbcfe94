"""What Kafka says about a consumer group with static members, and how to take one of them out.

aiokafka 0.14 knows these three requests only in versions that carry no ``group.instance.id``, so their wire
formats are here, on its protocol classes (KIP-345; not the flexible versions, which it does not need).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError, UnknownMemberIdError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Bytes, Int16, Int32, Schema, String

#: Another process joined with the same group.instance.id. aiokafka has no name for it.
FENCED_INSTANCE_ID: Final = 82
UNKNOWN_MEMBER_ID: Final = UnknownMemberIdError.errno
#: Kafka says this of a group that nobody ever used (DescribeGroups before v6).
DEAD: Final = "Dead"


class StaticMemberUnknown(Exception):
    """The group has no static member of that group.instance.id (any more)."""


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One member. ``instance_id`` None: dynamic. ``partitions``: of every topic assigned to it, also standby copies."""

    member_id: str
    instance_id: str | None
    client_id: str
    host: str
    partitions: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group. ``state``: Stable, PreparingRebalance, CompletingRebalance, Empty or Dead."""

    state: str
    members: tuple[GroupMember, ...]

    def static_member(self, instance_id: str) -> GroupMember | None:
        """The member of that group.instance.id."""
        return next((member for member in self.members if member.instance_id == instance_id), None)


async def describe_group(client: AIOKafkaAdminClient, group: str) -> Group:
    """The group as its coordinator sees it; one that nobody ever used is Dead.

    Raises:
        KafkaError: the coordinator refuses.
    """
    try:
        node = await client.find_coordinator(group)
    except GroupCoordinatorNotAvailableError:  # a new cluster in which no group ever committed
        return Group(DEAD, ())
    response = await client._send_request(DescribeStaticMembersRequest(group), node)
    row = response.to_object()["groups"][0]
    _raise_for(row["error_code"])
    return Group(row["state"], tuple(_member(member) for member in row["members"]))


async def remove_static_member(client: AIOKafkaAdminClient, group: str, instance_id: str) -> None:
    """Take the member out of the group; its partitions go to the others at once.

    Raises:
        StaticMemberUnknown: there is none of that id.
        KafkaError: the coordinator refuses.
    """
    node = await client.find_coordinator(group)
    response = await client._send_request(LeaveStaticMemberRequest(group, instance_id), node)
    answer = response.to_object()
    _raise_for(answer["error_code"])
    for member in answer["members"]:
        if member["error_code"] == UNKNOWN_MEMBER_ID:
            raise StaticMemberUnknown(f"group {group} has no member {instance_id}")
        _raise_for(member["error_code"])


def _member(row: dict[str, Any]) -> GroupMember:
    raw = row["member_assignment"]
    assigned = ConsumerProtocol.ASSIGNMENT.decode(raw).assignment if raw else []  # empty while the group rebalances
    partitions = {topic: sorted(numbers) for topic, numbers in sorted(assigned)}
    return GroupMember(row["member_id"], row["group_instance_id"], row["client_id"], row["client_host"].lstrip("/"), partitions)


def _raise_for(code: int) -> None:
    if code == FENCED_INSTANCE_ID:
        raise KafkaError("FENCED_INSTANCE_ID: another process uses this group.instance.id")
    if code:
        error = for_code(code)
        raise error


# -- wire formats: named as aiokafka names its own (which mypy sees as Any) ---------------------------------------------


class HeartbeatResponse_v3(Response):  # type: ignore[misc]  # noqa: N801
    """KIP-345."""

    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class HeartbeatRequest_v3(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """KIP-345: with the instance id the broker tells "replaced" from "removed"."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = HeartbeatResponse_v3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class StaticHeartbeatRequest(Request[HeartbeatRequest_v3]):  # type: ignore[misc]
    """A heartbeat that names the static member it is from."""

    API_KEY = 12

    def __init__(self, group: str, generation_id: int, member_id: str, instance_id: str) -> None:
        self._fields = (group, generation_id, member_id, instance_id)

    def build(self, request_struct_class: type[HeartbeatRequest_v3]) -> HeartbeatRequest_v3:
        """The request on the wire."""
        return request_struct_class(*self._fields)


class LeaveGroupResponse_v3(Response):  # type: ignore[misc]  # noqa: N801
    """KIP-345."""

    API_KEY = 13
    API_VERSION = 3
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")), ("error_code", Int16))),
    )


class LeaveGroupRequest_v3(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """KIP-345: members by instance id; the member id may be empty."""

    API_KEY = 13
    API_VERSION = 3
    RESPONSE_TYPE = LeaveGroupResponse_v3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("members", Array(("member_id", String("utf-8")), ("group_instance_id", String("utf-8")))),
    )


class LeaveStaticMemberRequest(Request[LeaveGroupRequest_v3]):  # type: ignore[misc]
    """Take one static member out of the group, whoever holds the id."""

    API_KEY = 13

    def __init__(self, group: str, instance_id: str) -> None:
        self._fields = (group, [("", instance_id)])

    def build(self, request_struct_class: type[LeaveGroupRequest_v3]) -> LeaveGroupRequest_v3:
        """The request on the wire."""
        return request_struct_class(*self._fields)


class DescribeGroupsResponse_v4(Response):  # type: ignore[misc]  # noqa: N801
    """KIP-345."""

    API_KEY = 15
    API_VERSION = 4
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "groups",
            Array(
                ("error_code", Int16),
                ("group", String("utf-8")),
                ("state", String("utf-8")),
                ("protocol_type", String("utf-8")),
                ("protocol", String("utf-8")),
                (
                    "members",
                    Array(
                        ("member_id", String("utf-8")),
                        ("group_instance_id", String("utf-8")),
                        ("client_id", String("utf-8")),
                        ("client_host", String("utf-8")),
                        ("member_metadata", Bytes),
                        ("member_assignment", Bytes),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
    )


class DescribeGroupsRequest_v4(RequestStruct):  # type: ignore[misc]  # noqa: N801
    """KIP-345: members with their instance ids."""

    API_KEY = 15
    API_VERSION = 4
    RESPONSE_TYPE = DescribeGroupsResponse_v4
    SCHEMA = Schema(("groups", Array(String("utf-8"))), ("include_authorized_operations", Boolean))


class DescribeStaticMembersRequest(Request[DescribeGroupsRequest_v4]):  # type: ignore[misc]
    """One group with the instance ids of its members."""

    API_KEY = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[DescribeGroupsRequest_v4]) -> DescribeGroupsRequest_v4:
        """The request on the wire."""
        return request_struct_class([self._group], False)

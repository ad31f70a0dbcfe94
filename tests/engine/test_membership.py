"""A worker that is not a member of its group any more ends and says why; one that merely waits does not."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    InconsistentGroupProtocolError,
    KafkaConnectionError,
    KafkaError,
    UnknownError,
    for_code,
)
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, SyncGroupRequest
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.assignor.client_assignment import ClientAssignment, ClientMetadata

from app.engine import membership
from app.engine.membership import membership_errors, stale_topics
from app.kafka_groups import LeaveStaticMemberRequest, StaticHeartbeatRequest

OK, ILLEGAL_GENERATION, UNKNOWN, REBALANCING, FENCED = 0, 22, 25, 27, 82


class Ended(Exception):
    """The process would have ended here."""


@dataclass
class Broker:
    """aiokafka's client: answers each request by its type."""

    answers: dict[type, Any] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    cluster: Any = field(default_factory=lambda: SimpleNamespace(add_listener=lambda listener: None))

    async def send(self, node: int, request: Any, **options: Any) -> Any:
        self.asked.append(request)
        answer = self.answers[type(request)]
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class Rig:
    """A real coordinator that believes to be member m-1 of generation 7, with a broker that answers as told."""

    broker: Broker
    coordinator: GroupCoordinator
    fatal: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def end(self, reason: str, exc: BaseException | None) -> None:
        self.fatal.append(reason)
        raise Ended

    def refuse(self, reason: str) -> None:
        self.refused.append(reason)
        raise Ended


NewRig = Callable[..., Rig]


@pytest.fixture
async def rig() -> AsyncIterator[NewRig]:
    made: list[GroupCoordinator] = []

    def new(instance_id: str | None = "pod-0", **answers: Any) -> Rig:
        broker = Broker({HeartbeatRequest: code(OK), StaticHeartbeatRequest: code(OK)})
        subscription = SubscriptionState()
        subscription.register_fetch_waiters(set())  # the fetcher's
        coordinator = GroupCoordinator(
            broker, subscription, group_id="veltrix", group_instance_id=instance_id, assignors=(RoundRobinPartitionAssignor,)
        )
        made.append(coordinator)
        coordinator.coordinator_id, coordinator.member_id, coordinator.generation = 1, "m-1", 7
        one = Rig(broker, coordinator)
        membership.install(cast("Any", SimpleNamespace(_coordinator=coordinator)), one.end, one.refuse)
        return one

    yield new
    for coordinator in made:
        if not coordinator._closing.done():
            coordinator._closing.set_result(None)
        coordinator._coordination_task.cancel()
        await asyncio.gather(coordinator._coordination_task, return_exceptions=True)


def code(number: int) -> Any:
    return SimpleNamespace(error_code=number)


# -- lost membership -------------------------------------------------------------------------------------------------


async def test_a_static_member_whose_id_another_worker_took_ends_and_names_the_id(rig: NewRig) -> None:
    one = rig()
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN), StaticHeartbeatRequest: code(FENCED)}

    with pytest.raises(Ended):
        await one.coordinator._do_heartbeat()

    assert "another worker uses group_instance_id pod-0 in group veltrix" in one.fatal[0]
    assert "VELTRIX_GROUP_INSTANCE_ID" in one.fatal[0]


async def test_a_static_member_that_was_thrown_out_says_so(rig: NewRig) -> None:
    one = rig()
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN), StaticHeartbeatRequest: code(UNKNOWN)}

    with pytest.raises(Ended):
        await one.coordinator._do_heartbeat()

    assert "thrown out of group veltrix (group_instance_id pod-0)" in one.fatal[0]
    assert "10 s" in one.fatal[0]


async def test_the_question_why_names_member_and_generation_of_before_the_loss(rig: NewRig) -> None:
    one = rig()
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN), StaticHeartbeatRequest: code(FENCED)}

    with pytest.raises(Ended):
        await one.coordinator._do_heartbeat()

    assert one.broker.asked[-1]._fields == ("veltrix", 7, "m-1", "pod-0")


async def test_a_broker_that_does_not_answer_the_question_why_does_not_keep_it_alive(rig: NewRig) -> None:
    one = rig()
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN), StaticHeartbeatRequest: KafkaConnectionError("gone")}

    with pytest.raises(Ended):
        await one.coordinator._do_heartbeat()

    assert "does not know this worker (group_instance_id pod-0) any more" in one.fatal[0]


async def test_a_commit_that_finds_the_membership_lost_ends_it_too(rig: NewRig) -> None:
    one = rig()
    commit = SimpleNamespace(topics=[("interactions", [(0, OK), (1, UNKNOWN)])])
    one.broker.answers = {OffsetCommitRequest: commit, StaticHeartbeatRequest: code(FENCED)}
    offsets = {TopicPartition("interactions", number): OffsetAndMetadata(5, "") for number in (0, 1)}

    with pytest.raises(Ended):
        await one.coordinator._do_commit_offsets(None, offsets)


@pytest.mark.parametrize("request_type", [JoinGroupRequest, SyncGroupRequest])
async def test_joining_again_as_a_member_that_was_replaced_ends_it(rig: NewRig, request_type: Any) -> None:
    one = rig()
    one.broker.answers = {request_type: code(FENCED), StaticHeartbeatRequest: code(FENCED)}

    with pytest.raises(Ended):
        await one.coordinator._send_req(object.__new__(request_type))


async def test_a_dynamic_member_joins_again_as_always(rig: NewRig) -> None:
    one = rig(None)
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN)}

    assert not await one.coordinator._do_heartbeat()

    assert one.fatal == []
    assert one.coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID
    assert one.coordinator._rejoin_needed_fut.done()


@pytest.mark.parametrize("answer", [OK, ILLEGAL_GENERATION, REBALANCING])
async def test_other_answers_leave_a_static_member_alone(rig: NewRig, answer: int) -> None:
    one = rig()
    one.broker.answers = {HeartbeatRequest: code(answer)}

    await one.coordinator._do_heartbeat()

    assert one.fatal == []
    assert len(one.broker.asked) == 1


async def test_a_first_join_is_not_a_loss(rig: NewRig) -> None:
    one = rig()
    one.coordinator.member_id = ""
    one.broker.answers = {JoinGroupRequest: code(UNKNOWN)}

    await one.coordinator._send_req(object.__new__(JoinGroupRequest))

    assert one.fatal == []


def test_answers_to_other_requests_say_nothing_of_membership() -> None:
    assert membership_errors(object(), code(UNKNOWN)) == set()


# -- an assignment of another version --------------------------------------------------------------------------------


def assignment(known: tuple[str, ...], assigned: tuple[str, ...]) -> bytes:
    metadata = ClientMetadata(
        assignment=ClientAssignment(actives={topic: [0] for topic in assigned}, standbys={}),
        url="veltrix:/pod-0",
        changelog_distribution={},
        topic_groups=dict.fromkeys(known, 0),
    )
    raw = ConsumerProtocolMemberAssignment(4, [(topic, [0]) for topic in assigned], zlib.compress(metadata.dumps()))
    return cast("bytes", raw.encode())


async def subscribed(one: Rig) -> Rig:
    """Subscribed, and moved by nothing but the test."""
    one.coordinator._closing.set_result(None)
    one.coordinator._coordination_task.cancel()
    await asyncio.gather(one.coordinator._coordination_task, return_exceptions=True)
    one.coordinator._subscription.subscribe({"old", "new"})
    return one


@pytest.mark.parametrize(
    ("known", "assigned"), [(("old",), ("old",)), (("old", "new", "gone"), ("old", "gone"))], ids=["agent added", "agent removed"]
)
async def test_a_static_member_with_other_agents_than_before_joins_as_a_new_member(
    rig: NewRig, known: tuple[str, ...], assigned: tuple[str, ...]
) -> None:
    one = await subscribed(rig())
    one.broker.answers[LeaveStaticMemberRequest] = SimpleNamespace(error_code=OK, members=[])

    await one.coordinator._on_join_complete(7, "m-1", "roundrobin", assignment(known, assigned))

    assert isinstance(one.broker.asked[-1], LeaveStaticMemberRequest)
    assert one.coordinator.member_id == ""
    assert one.coordinator._subscription.subscription.assignment is None


async def test_leaving_for_a_new_membership_does_not_count_as_joined(rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def join(self: Any) -> tuple[str, bytes]:
        return "roundrobin", assignment(("old",), ("old",))

    monkeypatch.setattr(CoordinatorGroupRebalance, "perform_group_join", join)
    one = await subscribed(rig())
    one.broker.answers[LeaveStaticMemberRequest] = SimpleNamespace(error_code=OK, members=[])
    subscription = one.coordinator._subscription.subscription

    assert not await one.coordinator._do_rejoin_group(subscription)
    assert await one.coordinator._do_rejoin_group(subscription)

    await asyncio.sleep(0)  # the refresh task cannot be stopped before it began
    await one.coordinator._stop_commit_offsets_refresh_task()


async def test_it_does_so_once_and_then_takes_what_it_gets(rig: NewRig) -> None:
    one = await subscribed(rig())
    one.broker.answers[LeaveStaticMemberRequest] = SimpleNamespace(error_code=OK, members=[])
    old = assignment(("old",), ("old",))
    await one.coordinator._on_join_complete(7, "m-1", "roundrobin", old)

    await one.coordinator._on_join_complete(8, "m-2", "roundrobin", old)
    await asyncio.sleep(0)  # the refresh task cannot be stopped before it began
    await one.coordinator._stop_commit_offsets_refresh_task()

    assert one.coordinator._subscription.assigned_partitions() == {TopicPartition("old", 0)}


def test_an_assignment_fits_when_the_leader_knew_all_topics_even_if_others_have_them() -> None:
    assert stale_topics({"a", "b"}, {"a", "b", "c"}, {"a"}) == set()


# -- errors that nobody would see ------------------------------------------------------------------------------------


async def test_workers_that_assign_in_another_way_are_a_matter_of_configuration(rig: NewRig) -> None:
    one = rig(None)

    with pytest.raises(Ended):
        one.coordinator._push_error_to_user(InconsistentGroupProtocolError())

    assert "processing_guarantee and transaction_groups must be the same" in one.refused[0]


@pytest.mark.parametrize("error", [GroupAuthorizationFailedError("veltrix"), KafkaError("anything")])
async def test_an_error_of_the_coordination_ends_the_worker_also_before_its_first_assignment(
    rig: NewRig, error: KafkaError
) -> None:
    one = rig(None)

    with pytest.raises(Ended):
        one.coordinator._push_error_to_user(error)

    assert str(error) in one.fatal[0]


async def test_a_coordination_task_that_broke_ends_the_worker(rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    one, ended = rig(None), asyncio.Event()
    monkeypatch.setattr(one.coordinator, "ensure_coordinator_known", broken)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: ended.set())  # Ended, raised in a callback

    one.coordinator._subscription.subscribe({"old"})

    await asyncio.wait_for(ended.wait(), 5)
    assert "an assertion of Faust" in one.fatal[0]


async def test_a_coordination_task_that_was_cancelled_ends_the_worker_too(rig: NewRig) -> None:
    one, ended = rig(None), asyncio.Event()
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: ended.set())

    one.coordinator._coordination_task.cancel()

    await asyncio.wait_for(ended.wait(), 5)
    assert "cancelled" in one.fatal[0]


async def test_a_clean_stop_ends_nothing(rig: NewRig) -> None:
    one = rig()

    await one.coordinator.close()
    await asyncio.sleep(0)

    assert one.fatal == []


async def broken() -> None:
    raise AssertionError("an assertion of Faust")


# -- topics that the leader does not know ----------------------------------------------------------------------------


@dataclass
class Metadata(Broker):
    """A client whose broker knows no topic until it was asked ``unknown_for`` times."""

    unknown_for: int = 0
    updates: int = 0
    pending: asyncio.Future[bool] | None = None

    async def _maybe_wait_metadata(self) -> None: ...
    def set_topics(self, topics: set[str]) -> None: ...

    def force_metadata_update(self) -> asyncio.Future[bool]:
        self.updates += 1
        if self.pending is not None:
            return self.pending
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        answer.set_result(True)
        return answer

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {0, 1} if self.knows_it() else None

    def knows_it(self) -> bool:
        return self.updates >= self.unknown_for


async def leads(one: Rig, client: Metadata) -> set[asyncio.Task[Any]]:
    """It deals out one topic as the leader; the tasks that this left behind."""
    before = asyncio.all_tasks()
    one.coordinator._client = one.coordinator._cluster = client
    member = RoundRobinPartitionAssignor.metadata({"interactions"}).encode()
    await one.coordinator._perform_assignment(
        SimpleNamespace(API_VERSION=5, group_protocol="roundrobin", members=[("m-1", None, member)])
    )
    return asyncio.all_tasks() - before


async def test_a_leader_asks_for_a_topic_it_does_not_know_until_it_does(rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ASK_AGAIN_S", (0.001, 0.002))
    client = Metadata(unknown_for=4)

    (asking,) = await leads(rig(None), client)
    await asking

    assert client.updates == 4


async def test_a_leader_that_knows_all_topics_asks_for_none(rig: NewRig) -> None:
    client = Metadata()

    assert await leads(rig(None), client) == set()
    assert client.updates == 0


@pytest.mark.parametrize("wait_s", [60.0, 0.0], ids=["between two questions", "no answer comes"])
async def test_a_clean_stop_ends_the_asking(wait_s: float, rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ASK_AGAIN_S", (wait_s, wait_s))
    one = rig(None)
    (asking,) = await leads(one, Metadata(unknown_for=2, pending=asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0.01)
    assert not asking.done()

    one.coordinator._closing.set_result(None)

    await asyncio.wait_for(asking, 1)


async def test_who_leads_no_more_asks_no_more(rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ASK_AGAIN_S", (0.001, 0.001))
    one, client = rig(None), Metadata(unknown_for=1_000_000)
    (asking,) = await leads(one, client)

    one.coordinator._group_subscription = None  # as aiokafka has it from the moment that it joins again

    await asyncio.wait_for(asking, 1)
    assert not client.knows_it()


async def test_a_second_deal_while_it_asks_does_not_ask_twice(rig: NewRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "ASK_AGAIN_S", (60.0, 60.0))
    one, client = rig(None), Metadata(unknown_for=1)
    assert len(await leads(one, client)) == 1

    assert await leads(one, client) == set()


async def test_a_member_without_partitions_never_counts_as_hung(rig: NewRig) -> None:
    assert rig(None).coordinator._max_poll_interval == math.inf
    assert rig("pod-0").coordinator._max_poll_interval == math.inf


async def test_an_error_during_a_clean_stop_is_the_stops_own_matter(rig: NewRig) -> None:
    one = rig(None)
    one.coordinator._closing.set_result(None)

    await one.coordinator._push_error_to_user(KafkaError("the connection is gone"))

    assert one.fatal == []


# -- why all this: when one of these fails, aiokafka has mended it ---------------------------------------------------


async def test_aiokafka_itself_joins_again_as_somebody_new_when_its_id_was_taken(rig: NewRig) -> None:
    one = rig("pod-0")
    one.broker.answers = {HeartbeatRequest: code(UNKNOWN)}

    await GroupCoordinator._do_heartbeat(cast("Any", Stock(one.coordinator)))

    assert one.coordinator.member_id == JoinGroupRequest.UNKNOWN_MEMBER_ID


class Stock:
    """The coordinator without what ``install`` put on it."""

    def __init__(self, coordinator: GroupCoordinator) -> None:
        self._coordinator = coordinator

    def __getattr__(self, name: str) -> Any:
        method = getattr(GroupCoordinator, name, None)
        return method.__get__(self._coordinator) if callable(method) else getattr(self._coordinator, name)


def test_aiokafka_has_no_request_with_an_instance_id_but_joining() -> None:
    assert max(struct.API_VERSION for struct in HeartbeatRequest._CLASSES) < 3
    assert max(struct.API_VERSION for struct in LeaveGroupRequest._CLASSES) < 3
    assert max(struct.API_VERSION for struct in OffsetCommitRequest._CLASSES) < 7
    assert for_code(FENCED) is UnknownError

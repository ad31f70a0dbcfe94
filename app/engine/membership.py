"""Membership of the consumer group: a worker that lost it ends, and says why.

aiokafka 0.14 handles ``group.instance.id`` only while joining. Three things follow, and this module mends them
by wrapping methods of the one ``GroupCoordinator`` of this worker:

1. A static member that the broker does not know any more forgets its member id and joins again. If another
   process took its id, that throws the other one out, which does the same, for ever. Here a static worker that is
   no longer a member ends; the newer holder of the id stays. A dynamic worker joins again, as always.
2. A static member that restarts gets the assignment it had, without a rebalance. After an upgrade that added or
   removed an agent it is wrong: topics nobody reads, or topics the worker does not know (an assertion in Faust).
   Such a worker leaves the group and joins as a new member, which makes the leader assign anew.
3. Errors of the coordination task wait for a call of ``getmany``, which never comes before the first assignment:
   the worker would stand still without a word. They end the worker instead.

And two for all workers:

4. A leader that does not know a topic (the broker it asked had not heard of it yet, or gave no answer) deals out
   nothing of it and asks again after five minutes, aiokafka's age of metadata: nobody would read it until then. Here
   it asks until it knows; aiokafka then has the group assign anew.
5. aiokafka counts a member that does not poll as hung and leaves the group for good (after 1,000 s, Faust's default).
   A member without partitions, or in a long recovery, has nothing to poll; whether lanes move is what the stall
   watchdog looks at.
"""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import Iterable
from typing import Any, Final, cast

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import InconsistentGroupProtocolError, KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from faust.assignor.client_assignment import ClientMetadata

from app.engine.guard import Fatal, Refuse
from app.kafka_groups import FENCED_INSTANCE_ID, UNKNOWN_MEMBER_ID, LeaveStaticMemberRequest, StaticHeartbeatRequest

log = structlog.get_logger(__name__)


#: Answers by which the broker says: you are not (or not any more) the member you think you are.
LOST: Final = frozenset({UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID})

#: How long a leader waits before it asks again for a topic it does not know, doubled each time; s.
ASK_AGAIN_S: Final = (0.1, 30.0)


def install(consumer: AIOKafkaConsumer, fatal: Fatal, refuse: Refuse) -> Membership:
    """Watch the membership of a started ``consumer``. Call it before the consumer subscribes.

    Args:
        consumer: started, with a group id.
        fatal: ends the process: it is not a member any more, or cannot become one.
        refuse: ends the process: it is configured differently from the other members.
    """
    return Membership(cast("GroupCoordinator", consumer._coordinator), fatal, refuse)


class Membership:
    """The wrapped methods of one coordinator."""

    def __init__(self, coordinator: GroupCoordinator, fatal: Fatal, refuse: Refuse) -> None:
        self._coordinator = coordinator
        self._fatal = fatal
        self._refuse = refuse
        self._instance_id: str = coordinator._group_instance_id or ""
        self._joined_anew = False
        coordinator._max_poll_interval = math.inf
        coordinator._coordination_task.add_done_callback(self._coordination_ended)
        self._push_error = coordinator._push_error_to_user
        coordinator._push_error_to_user = self._end_for_error
        self._assign = coordinator._perform_assignment
        coordinator._perform_assignment = self._assign_and_look
        self._asking: asyncio.Task[None] | None = None
        if self._instance_id:
            self._send = coordinator._send_req
            coordinator._send_req = self._send_and_look
            self._rejoin = coordinator._do_rejoin_group
            coordinator._do_rejoin_group = self._rejoin_and_look
            self._join_complete = coordinator._on_join_complete
            coordinator._on_join_complete = self._take_assignment

    # -- 1: lost membership ---------------------------------------------------------------------------------------------

    async def _send_and_look(self, request: Any) -> Any:
        member_id, generation = self._coordinator.member_id, self._coordinator.generation
        response = await self._send(request)
        if member_id and not LOST.isdisjoint(membership_errors(request, response)):
            self._fatal(await self._why_lost(member_id, generation), None)
        return response

    async def _why_lost(self, member_id: str, generation: int) -> str:
        """Requests without the instance id get one answer for both reasons; a heartbeat that has it gets the true one."""
        instance, group = self._instance_id, self._coordinator.group_id
        try:
            answer = await self._send(StaticHeartbeatRequest(group, generation, member_id, instance))
        except KafkaError as exc:
            log.warning("membership_unclear", reason=repr(exc))
            return f"group {group} does not know this worker (group_instance_id {instance}) any more"
        if answer.error_code == FENCED_INSTANCE_ID:
            return (
                f"another worker uses group_instance_id {instance} in group {group} and has taken this one's partitions: "
                "give each worker its own VELTRIX_GROUP_INSTANCE_ID"
            )
        return (
            f"this worker was thrown out of group {group} (group_instance_id {instance}): no heartbeat within "
            f"{self._coordinator._session_timeout_ms / 1000:g} s, or `veltrix drain`"
        )

    # -- 2: an assignment of another version ----------------------------------------------------------------------------

    async def _rejoin_and_look(self, subscription: Any) -> bool:
        anew = self._joined_anew
        joined = await self._rejoin(subscription)
        return bool(joined) and anew == self._joined_anew  # else not joined yet: try again

    async def _take_assignment(self, generation: int, member_id: str, protocol: str, raw: bytes) -> None:
        assignment = ConsumerProtocol.ASSIGNMENT.decode(raw)
        metadata = cast("ClientMetadata", ClientMetadata.loads(zlib.decompress(assignment.user_data)))
        differing = stale_topics(
            self._coordinator._subscription.topics, metadata.topic_groups, (topic for topic, _ in assignment.assignment)
        )
        if differing and not self._joined_anew:
            log.info("assignment_is_of_another_version", topics=sorted(differing), member=self._instance_id)
            await self._join_anew()
            return
        await self._join_complete(generation, member_id, protocol, raw)

    async def _join_anew(self) -> None:
        self._joined_anew = True  # at most once: while versions are mixed the leader may have no better assignment
        await self._send(LeaveStaticMemberRequest(self._coordinator.group_id, self._instance_id))
        self._coordinator.reset_generation()

    # -- 3: errors that nobody would see ---------------------------------------------------------------------------------

    def _end_for_error(self, exc: BaseException) -> Any:
        group = self._coordinator.group_id
        if self._coordinator._closing.done():
            return self._push_error(exc)
        if isinstance(exc, InconsistentGroupProtocolError):
            self._refuse(
                f"the workers of group {group} assign partitions in another way: processing_guarantee and "
                "transaction_groups must be the same for all; stop all of them to change it"
            )
        else:
            self._fatal(f"group {group}: {exc}", exc)
        return self._push_error(exc)

    def _coordination_ended(self, task: asyncio.Task[None]) -> None:
        if self._coordinator._closing.done():
            return
        exc = None if task.cancelled() else task.exception()
        self._fatal(f"group {self._coordinator.group_id}: the coordination ended: {exc or 'cancelled'}", exc)

    # -- 4: topics that the leader does not know --------------------------------------------------------------------------

    async def _assign_and_look(self, response: Any) -> Any:
        assignments = await self._assign(response)
        if self._unknown_topics() and (self._asking is None or self._asking.done()):
            self._asking = asyncio.create_task(self._ask_until_known())
        return assignments

    def _unknown_topics(self) -> list[str]:
        """Of all members' topics; none while the group assigns anew, or when another leads it."""
        one = self._coordinator
        return sorted(topic for topic in one._group_subscription or () if not one._cluster.partitions_for_topic(topic))

    async def _ask_until_known(self) -> None:
        closing = self._coordinator._closing
        wait_s, longest_s = ASK_AGAIN_S
        while unknown := self._unknown_topics():
            log.warning("topics_unknown_to_the_leader", topics=unknown, asks_again_after_s=wait_s)
            await asyncio.wait({closing}, timeout=wait_s)
            if closing.done():
                return
            await asyncio.wait({closing, self._coordinator._client.force_metadata_update()}, return_when="FIRST_COMPLETED")
            wait_s = min(2 * wait_s, longest_s)


def membership_errors(request: Any, response: Any) -> set[int]:
    """Error codes of an answer that speak about the membership of who asked."""
    match request:
        case HeartbeatRequest() | JoinGroupRequest() | SyncGroupRequest():
            return {response.error_code}
        case OffsetCommitRequest():
            return {code for _, partitions in response.topics for _, code in partitions}
        case _:
            return set()


def stale_topics(subscribed: Iterable[str], known_to_leader: Iterable[str], assigned: Iterable[str]) -> set[str]:
    """Topics that show that an assignment was made for another version of this worker; empty: it fits."""
    mine = set(subscribed)
    return (mine - set(known_to_leader)) | (set(assigned) - mine)

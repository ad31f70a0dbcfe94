"""Exactly once: changelog, outputs, dead letters and source offsets of a group of lanes in one Kafka transaction.

A *transaction group* is the partitions with one remainder: ``partition % transaction_groups``. It has one static
transactional id (``<app>-<group>``) and one worker, so that a successor's ``start`` fences a predecessor that was
taken for dead and completes or aborts what it left open. Once an interval, what the group's lanes have computed goes
out in one transaction; only after its commit does RocksDB follow. What a failed transaction carried is sent again, by
a new producer, from the same computed units: their values are pure functions of records and of state that has not changed.

The rules that this rests on were measured against aiokafka 0.14 and Kafka 4.4 (ADR 0006):
sends are awaited before the offsets are sent (else the broker's verification refuses one of them), a commit hides
failed sends (so each future is read), and a producer whose send has failed is never used again.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import OffsetAndMetadata

from app.engine.api import DeadLetterEncoder
from app.engine.delivery import ChangelogTaken
from app.engine.producing import Ack, SendFailed
from app.engine.settlement import Settlement
from app.engine.status import Observer
from app.engine.unit import output_batches
from app.engine.writer import Addressed

if TYPE_CHECKING:
    from app.engine.lane import Lane
    from app.engine.unit import Unit

log = structlog.get_logger(__name__)

#: How often brokers may refuse a transaction before the process ends (after about 20 s of waits); the next start tries again.
ATTEMPTS = 10
#: Wait before the second attempt, seconds; doubles each time, up to the longest.
BACK_OFF_S = 0.1
LONGEST_BACK_OFF_S = 5.0
#: How late a pause between two transactions notices that a lane wants to close, seconds.
_NOTICE_S = 0.02


class NotOurs(Exception):
    """This worker is not in its group any more: another one owns the transaction group. The process must end."""

    def __init__(self, group: int) -> None:
        super().__init__(
            f"transaction group {group} belongs to another worker, or to nobody: this one was thrown out of the consumer group "
            "(its session ended); the next start joins again"
        )


class TransactionalProducer(Protocol):
    """What is used of aiokafka's producer with a transactional id."""

    async def start(self) -> None:
        """Fence the id's former user, and complete or abort what it left open."""
        ...

    async def stop(self) -> None: ...

    async def begin_transaction(self) -> None: ...

    async def send_batch(self, batch: BatchBuilder, topic: str, *, partition: int) -> asyncio.Future[Any]: ...

    async def send_offsets_to_transaction(self, offsets: Mapping[TopicPartition, OffsetAndMetadata], group_id: str) -> None: ...

    async def commit_transaction(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TransactionParts:
    """What transactions need from outside; every part can be a fake."""

    app_id: str
    groups: int
    interval_s: float
    new_producer: Callable[[str], TransactionalProducer]
    """transactional id -> a producer that is not started"""
    is_member: Callable[[], Awaitable[bool]]
    """this worker is in the current generation of its consumer group"""
    committed: Callable[[Iterable[TopicPartition]], Awaitable[dict[TopicPartition, OffsetAndMetadata]]]
    """the group's committed offsets with their notes, -1 for none"""
    dead_letter: DeadLetterEncoder
    observer: Observer
    check_alive: Callable[[], None] = lambda: None
    """ends the process when it stood still for so long that its partitions may be another worker's"""


@dataclass(slots=True)
class Part:
    """A lane's share of a transaction. ``base``: offset of its changelog batch, known once it was sent."""

    lane: Lane
    settlement: Settlement
    base: int = -1

    @property
    def offsets(self) -> dict[TopicPartition, int]:
        """What the group's offsets become; units without records (ticks) leave them where they are."""
        partition, progress = self.lane.id.partition, self.lane.progress
        return {
            TopicPartition(topic, partition): progress.start_offset(topic) if offset is None else offset
            for topic, offset in self.settlement.next_offsets.items()
        }

    @property
    def commits(self) -> dict[TopicPartition, OffsetAndMetadata]:
        """The offsets, each with a note that no other transaction has: where our changelog batch is."""
        return {tp: OffsetAndMetadata(offset, str(self.base)) for tp, offset in self.offsets.items()}

    def checked(self, base: int) -> int:
        """``base``, if our changelog batch can be there: an answer may come without an offset (DuplicateSequenceNumber)."""
        if base <= self.lane.progress.changelog_offset:
            raise ChangelogTaken(self.lane.changelog_topic, self.lane.id.partition, self.lane.progress.changelog_offset + 1, base)
        return base

    def finish(self) -> None:
        """The transaction is committed."""
        self.settlement.mark_visible()
        self.lane.make_durable(self.settlement, self.base)
        self.lane.progress.commit({tp.topic: offset for tp, offset in self.offsets.items()})

    def batches(self, dead_letter: DeadLetterEncoder) -> list[Addressed]:
        """Outputs and dead letters of all units, then the changelog; built anew for each attempt."""
        lane, limit, topic = self.lane.id, self.lane.limits.batch_bytes, self.lane.changelog_topic
        outputs = output_batches([unit.computed for unit in self.settlement.units], dead_letter, lane, limit, transactional=True)
        state = self.settlement.changelog_batch(topic, limit, transactional=True)
        return [*outputs, (topic, lane.partition, state)]


class TransactionGroup:
    """One transactional id and its lanes. At most one transaction is under way."""

    def __init__(self, number: int, parts: TransactionParts) -> None:
        self.number = number
        self.lanes: list[Lane] = []
        self._parts = parts
        self._producer = parts.new_producer(f"{parts.app_id}-{number}")
        self._turn: asyncio.Task[None] | None = None
        self._began = 0.0

    async def start(self) -> None:
        """Take the id over."""
        await self._producer.start()

    async def stop(self) -> None:
        """Give the id up; nothing is under way."""
        await self._producer.stop()

    async def transact(self) -> None:
        """Take part in the next transaction (or in the end of the one under way); returns when it is over."""
        if self._turn is None:
            self._turn = asyncio.get_running_loop().create_task(self._next(), name=f"transaction-{self.number}")
        await asyncio.shield(self._turn)

    async def _next(self) -> None:
        try:
            await self._pace()
            self._began = time.monotonic()
            work = [Part(lane, lane.next_settlement()) for lane in self.lanes if lane.can_settle]
            if work:
                await self._carry_through(work)
                self._parts.observer.committed(time.monotonic() - self._began, True)
                for part in work:
                    part.finish()
        finally:
            self._turn = None

    async def _pace(self) -> None:
        """Wait until an interval has passed since the last transaction began, or a lane wants to close."""
        next_begin = self._began + self._parts.interval_s
        while (left := next_begin - time.monotonic()) > 0 and not any(lane.closing for lane in self.lanes):  # noqa: ASYNC110
            await asyncio.sleep(min(left, _NOTICE_S))

    async def _carry_through(self, work: list[Part]) -> None:
        """Until it is committed. A broker that is away is waited for; what brokers refuse is tried ATTEMPTS times."""
        refused = 0
        for attempt in itertools.count(1):
            try:
                if attempt == 1 or not await self._take_back(work):
                    await self._attempt(work)
            except NotOurs:
                raise
            except Exception as exc:
                refused += not getattr(exc, "retriable", False)
                if refused == ATTEMPTS:
                    raise
                log.warning("transaction_failed", group=self.number, attempt=attempt, reason=repr(exc))
                await asyncio.sleep(min(BACK_OFF_S * 2 ** min(attempt - 1, 10), LONGEST_BACK_OFF_S))
            else:
                return

    async def _take_back(self, work: list[Part]) -> bool:
        """After a failed attempt, whose producer is never used again. True: it was committed all the same."""
        await self._replace_producer()
        return await self._is_committed(work)

    async def _attempt(self, work: list[Part]) -> None:
        # Built before it begins, so that the transaction is open for round trips only.
        batches = [(part, part.batches(self._parts.dead_letter)) for part in work]
        for part in work:
            part.base = -1
        await self._producer.begin_transaction()
        sends = [send for _, built in batches for send in await self._send(built)]
        for part in work:
            part.settlement.mark_produced()
        answers = await _answers(sends)
        for part, (*_, state) in zip(work, _grouped(answers, [len(built) for _, built in batches]), strict=True):
            part.base = part.checked(state.offset)
        commits = {tp: commit for part in work for tp, commit in part.commits.items()}
        if commits:
            await self._producer.send_offsets_to_transaction(commits, self._parts.app_id)
        self._parts.check_alive()
        await self._producer.commit_transaction()

    async def _send(self, batches: list[Addressed]) -> list[tuple[str, Ack]]:
        sends = []
        for topic, partition, batch in batches:
            batch.close()
            ack: Ack = await self._producer.send_batch(batch, topic, partition=partition)
            ack.add_done_callback(_read)
            sends.append((topic, ack))
        return sends

    async def _replace_producer(self) -> None:
        """A new producer of the same id, which ends the failed transaction. Only as long as the id is ours.

        Asked twice: the first question keeps a worker that was taken for dead from fencing its successor, the second
        finds a successor that came in between, which then has been fenced, replaces its producer too, and stays.
        """
        await self._check_membership()
        try:
            await self._producer.stop()
        except KafkaError:  # fenced in the middle of a request; the next start ends what it left
            log.info("failed_producer_stopped", group=self.number)
        self._producer = self._parts.new_producer(f"{self._parts.app_id}-{self.number}")
        await self._producer.start()
        await self._check_membership()

    async def _check_membership(self) -> None:
        if not await self._parts.is_member():
            raise NotOurs(self.number)

    async def _is_committed(self, work: list[Part]) -> bool:
        """Whether the failed attempt was committed all the same: its offsets are part of it, so the broker knows.

        Nobody else can commit while the id is ours. So offsets that are neither the attempt's nor those before it are
        another worker's, whatever the membership: a group coordinator that is loading says yes to every heartbeat.

        Raises:
            NotOurs: another worker has gone on from here.
        """
        wanted = {tp: commit for part in work for tp, commit in part.commits.items()}
        if not wanted:
            return False
        found = await self._parts.committed(wanted)
        if found == wanted and all(part.base >= 0 for part in work):
            return True
        before = {tp: part.lane.progress.committed.get(tp.topic, -1) for part in work for tp in part.offsets}
        if {tp: commit.offset for tp, commit in found.items()} != before:
            raise NotOurs(self.number)
        return False


class ExactlyOnce:
    """A :class:`app.engine.delivery.Delivery` by transactions."""

    commits_offsets = True

    def __init__(self, parts: TransactionParts) -> None:
        self._parts = parts
        self._groups: dict[int, TransactionGroup] = {}

    async def publish(self, lane: Lane, unit: Unit) -> None:
        """It waits for the next transaction."""
        unit.leave_to_transaction(lane.on_acked)

    async def settle(self, lane: Lane) -> None:
        """See :class:`app.engine.delivery.Delivery`."""
        group = self._groups[lane.id.partition % self._parts.groups]
        group.lanes.append(lane)
        try:
            while await lane.has_acked():
                await group.transact()
        finally:
            group.lanes.remove(lane)

    async def acquire(self, partitions: Iterable[int]) -> None:
        """Take over the groups of ``partitions``: fences their former owners."""
        await self.release()
        numbers = sorted({partition % self._parts.groups for partition in partitions})
        self._groups = {number: TransactionGroup(number, self._parts) for number in numbers}
        await asyncio.gather(*(group.start() for group in self._groups.values()))

    async def release(self) -> None:
        """Close the producers; the next assignment starts new ones."""
        groups, self._groups = self._groups, {}
        await asyncio.gather(*(group.stop() for group in groups.values()))


async def _answers(sends: list[tuple[str, Ack]]) -> list[Any]:
    """What the broker says to each send, once it has answered all of them.

    Raises:
        SendFailed: it does not take one of them.
    """
    answers = await asyncio.gather(*(ack for _, ack in sends), return_exceptions=True)
    for (topic, _), answer in zip(sends, answers, strict=True):
        if isinstance(answer, Exception):
            raise SendFailed(topic, answer) from answer
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _grouped(flat: list[Any], sizes: list[int]) -> Iterable[list[Any]]:
    """``flat`` cut into pieces of ``sizes``."""
    rest = iter(flat)
    return [list(itertools.islice(rest, size)) for size in sizes]


def _read(send: asyncio.Future[Any]) -> None:
    """asyncio logs an error for each failed future that nobody has looked at."""
    if not send.cancelled():
        send.exception()

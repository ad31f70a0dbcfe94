"""The stall watchdog: which source partitions stand still although there is work and nothing holds them by design.

What the consumer knows of a partition's end comes with its fetches: when fetching itself has died, that end stands
still too, and the lag looks like 0. So the ends are asked for here, by a client of its own, a few times per stall
timeout. When that very question fails the broker is not there: nobody's stall, and the time does not count.

A partition stands still when, from one look to the next, its next offset did not move, it has lag, it holds records
or has some to fetch (the end of a log may be a transaction's end marker, which no lane ever sees), and nothing holds
it by design (``LaneStatus.held_by``). The time counted per look is bounded, so that a suspended process does not
wake up with a stall. Partitions of no lane (before recovery, during a rebalance) are not watched.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import KafkaError

from app.engine.status import LaneStatus, Stall
from app.kafka_clients import KafkaConnectError, client_options, connect
from app.settings import Settings

log = structlog.get_logger(__name__)

TopicPartition = tuple[str, int]
#: Looks per stall timeout: a stall is reported at most two looks late.
LOOKS: Final = 4
#: Longest wait for one answer of the broker, seconds.
QUERY_TIMEOUT_S: Final = 10.0


class EndsUnknown(Exception):
    """No broker says where the partitions end. Nothing to do here: the next look asks again."""


class Sources(Protocol):
    """What is watched. ``app.engine.introspect.RunningEngine`` fits."""

    def lanes(self) -> list[LaneStatus]: ...

    async def position(self, topic: str, partition: int) -> int:
        """The next offset to fetch; -1 when unknown."""
        ...


class EndOffsets(Protocol):
    """Who knows where partitions end. :class:`EndOffsetClient` fits."""

    async def ask(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Those ends that a broker tells; partitions without a leader are missing. Raises EndsUnknown."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Still:
    """One partition that had work when it was last looked at, and for how long it has not moved."""

    status: LaneStatus
    end_offset: int
    seconds: float

    def stall(self) -> Stall:
        return Stall(self.status.lane, self.status.topic, self.seconds, self.end_offset - max(0, self.status.next_offset))


class StallWatchdog:
    """Looks at every lane ``LOOKS`` times per stall timeout. ``run`` is a coroutine for the worker to start and cancel.

    ``known_ends`` is filled with the answers, for whoever shows lag.
    """

    def __init__(
        self,
        sources: Sources,
        ends: EndOffsets,
        stall_timeout_s: float,
        known_ends: MutableMapping[TopicPartition, int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.failures = 0
        """looks at which no broker answered, since this process started"""
        self._sources, self._ends, self._known_ends, self._clock = sources, ends, known_ends, clock
        self._limit_s = stall_timeout_s
        self._interval_s = stall_timeout_s / LOOKS
        self._still: dict[TopicPartition, _Still] = {}
        self._looked_at = clock()

    def stalls(self) -> list[Stall]:
        """See :class:`app.engine.status.Stalls`."""
        found = [still.stall() for still in self._still.values() if still.seconds >= self._limit_s]
        return sorted(found, key=lambda stall: -stall.seconds)

    def still_seconds(self) -> dict[TopicPartition, float]:
        """For how long each partition that does not move has been seen so; those that move are not in it."""
        return {partition: still.seconds for partition, still in self._still.items()}

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._interval_s)
                await self.look()
        finally:
            await self._ends.aclose()

    async def look(self) -> None:
        """Ask for the ends and compare."""
        wanted = [_partition(status) for status in self._sources.lanes()]
        ends = await self._ask(wanted) if wanted else {}
        now = self._clock()
        passed = min(now - self._looked_at, 2 * self._interval_s)
        self._looked_at = now
        self._known_ends.clear()
        self._known_ends.update(ends)
        # Asked again after the wait for the broker: a lane may have moved, or gone, meanwhile.
        behind = [status for status in self._sources.lanes() if await self._is_behind(status, ends)]
        self._still = {_partition(status): self._judge(status, ends, passed) for status in behind}

    async def _ask(self, wanted: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        try:
            return await self._ends.ask(wanted)
        except EndsUnknown as exc:
            self.failures += 1
            log.warning("end_offsets_unknown", reason=str(exc))
            return {}

    async def _is_behind(self, status: LaneStatus, ends: Mapping[TopicPartition, int]) -> bool:
        topic, partition = _partition(status)
        end = ends.get((topic, partition), -1)
        if status.held_by or end <= status.next_offset:
            return False
        if status.queued_records or status.units_in_flight:
            return True
        return await self._sources.position(topic, partition) < end

    def _judge(self, status: LaneStatus, ends: Mapping[TopicPartition, int], passed: float) -> _Still:
        before = self._still.get(_partition(status))
        moved = before is None or before.status.next_offset != status.next_offset
        return _Still(status, ends[_partition(status)], 0.0 if before is None or moved else before.seconds + passed)


def _partition(status: LaneStatus) -> TopicPartition:
    return status.topic, status.lane.partition


class EndOffsetClient:
    """Asks brokers where partitions end, through a connection that nobody else uses.

    Not the worker's consumer: what is wrong with that one must not keep us from seeing it. Opened by the first
    question, thrown away after a failure. ``read_committed``: an open transaction of a producer is no work for us yet.
    """

    def __init__(self, settings: Settings, open_client: Callable[[Settings], Awaitable[Any]] | None = None) -> None:
        self._settings = settings
        self._timeout_s = min(QUERY_TIMEOUT_S, settings.stall_timeout_ms / 1000 / LOOKS)
        self._open = open_client or connected_client
        self._client: Any = None

    async def ask(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """See :class:`EndOffsets`."""
        try:
            if self._client is None:
                self._client = await self._open(self._settings)
            found = await self._ends(self._client, partitions)
        except (KafkaConnectError, KafkaError, OSError, TimeoutError) as exc:
            await self.aclose()
            raise EndsUnknown(f"{type(exc).__name__}: {exc}") from exc
        return found

    async def _ends(self, client: Any, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """All at once; when that fails one by one, since a partition without a leader fails the whole question."""
        try:
            return await self._some(client, partitions)
        except (KafkaError, TimeoutError):
            answers = await asyncio.gather(*(self._some(client, [one]) for one in partitions), return_exceptions=True)
        known: dict[TopicPartition, int] = {}
        for answer in answers:
            if not isinstance(answer, BaseException):
                known |= answer
            elif not isinstance(answer, KafkaError | TimeoutError):
                raise answer
        if not known:
            raise TimeoutError(f"no broker told any end within {self._timeout_s:g} s")
        return known

    async def _some(self, client: Any, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        async with asyncio.timeout(self._timeout_s):
            ends: dict[KafkaPartition, int] = await client.end_offsets([KafkaPartition(*one) for one in partitions])
        return {(tp.topic, tp.partition): end for tp, end in ends.items()}

    async def aclose(self) -> None:
        """Disconnect."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()


async def connected_client(settings: Settings) -> AIOKafkaConsumer:
    """A consumer of nothing, in no group.

    Raises:
        KafkaConnectError: no broker answers as it should.
    """
    client = AIOKafkaConsumer(
        **client_options(settings, client_id=f"{settings.app_id}-watchdog"),
        group_id=None,
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    try:
        await connect(client, settings)
    except BaseException:
        await client.stop()
        raise
    return client

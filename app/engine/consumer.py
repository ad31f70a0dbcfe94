"""Faust's consumer with the data path taken out: fetch all, hand to lanes, commit the durable prefix.

Everything about groups, assignment and rebalance order stays Faust's. See ``hooks.py`` for the list of
what is overridden and why; upstream behaviour referred to here is that of faust-streaming 0.15.3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    IllegalGenerationError,
    NoError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    for_code,
)
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.structs import OffsetAndMetadata
from faust.exceptions import ConsumerNotStarted
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from app.engine.engine import Engine, SourcePosition, TopicPartition
from app.engine.fetcher import EngineFetcher
from app.engine.in_loop import InLoopConsumerThread
from app.kafka_groups import FENCED_INSTANCE_ID

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp
    from app.engine.tables import EngineTables

log = structlog.get_logger(__name__)

#: How long one wait for fetched records may last, seconds; bounds how late a stop is noticed.
_FETCH_TIMEOUT_S = 1.0
#: Lanes may take one drain timeout to finish (they end the process themselves), then there is the commit.
_DRAIN_LIMITS = 2
#: With fewer records in hand, their outputs are more urgent than the next fetch request.
_FEW_RECORDS = 100
#: An older answer does not say any more that a partition has nothing new, ms.
_FRESH_MS = 5000
#: Poll interval while no partition is active (between assignment and recovery), seconds.
_IDLE_POLL_S = 0.02


class EngineConsumer(driver.Consumer):
    """Feeds the engine's lanes instead of Faust's streams."""

    #: Monotonic time at which the lanes were closed for a rebalance; 0 while they run.
    _stood_still_at = 0.0
    _giving_up: asyncio.Task[None] | None = None

    @property
    def _engine(self) -> Engine:
        return cast("EngineApp", self.app).engine

    @property
    def _client(self) -> AIOKafkaConsumer:
        return self._thread._ensure_consumer()

    @property
    def _fetcher_of_client(self) -> EngineFetcher:
        return cast("InLoopConsumerThread", self._thread).fetcher

    def _new_consumer_thread(self) -> driver.AIOKafkaConsumerThread:
        self._engine.set_paused = self._set_paused
        self._engine.is_at_end = self._is_at_end
        return InLoopConsumerThread(self, loop=self.loop, beacon=self.beacon, thread_loop=self.loop)

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Never: topics come from ``veltrix topics apply`` and were checked at boot."""

    # -- fetch ------------------------------------------------------------------------------------

    async def _drain_messages(self, fetcher: Any) -> None:
        # Always drains everything that is fetched: aiokafka leaves a partition with unconsumed records out of its
        # next fetch and holds that fetch back. A full lane pauses its partition instead.
        try:
            while not (self.should_stop or fetcher.should_stop):
                await self._drain_once()
        except (ConsumerStoppedError, asyncio.CancelledError):
            if not self.app.should_stop and not fetcher.should_stop:
                raise
        except Exception as exc:  # noqa: BLE001 - whatever it is, a worker that does not fetch must end
            cast("EngineApp", self.app).fatal(f"fetching failed: {type(exc).__name__}: {exc}", exc)

    async def _drain_once(self) -> None:
        if not self.flow_active:
            await self.wait(cast("Any", self.can_resume_flow))
            return
        active = self._get_active_partitions()
        if not active:  # aiokafka takes an empty set for "all"
            await asyncio.sleep(_IDLE_POLL_S)
            return
        records = await self._thread.getmany(active, _FETCH_TIMEOUT_S)
        if not cast("InLoopConsumerThread", self._thread).is_fetching():  # aiokafka only logs that its routine has ended
            cast("EngineApp", self.app).fatal("the Kafka client has stopped fetching; its log lines above say why", None)
        self._fetcher_of_client.is_patient = sum(map(len, records.values())) < _FEW_RECORDS
        if self.flow_active:  # else a rebalance began meanwhile: what was fetched is fetched again after it
            self._dispatch(records)
            if self.app.in_recovery:
                await cast("EngineTables", self.app.tables).recovery.read_positions()
        await asyncio.sleep(0)

    def _dispatch(self, records: Mapping[TP, list[Any]]) -> None:
        engine = self._engine
        for tp, batch in records.items():
            if tp.topic in engine.changelogs:
                engine.restore(tp.topic, tp.partition, batch, batch[-1].offset + 1)
            elif tp.topic in engine.sources:
                engine.submit(tp.topic, tp.partition, batch)

    def _is_at_end(self, tp: TopicPartition, since_ms: int) -> bool:
        """Nothing of ``tp`` is left to read, by a fetch response of a moment ago and not before ``since_ms`` (epoch ms)."""
        partition = KafkaPartition(*tp)
        if partition not in self._client.assignment():
            return False
        answered_ms, end = self._client.last_poll_timestamp(partition), self._client.highwater(partition)
        if answered_ms is None or end is None or answered_ms < max(since_ms, time.time() * 1000 - _FRESH_MS):
            return False
        return bool(self.read_up_to(tp) >= end)

    def read_up_to(self, tp: TopicPartition) -> int:
        """The next offset to fetch, behind what no lane sees (control records); -1 when unknown."""
        partition = KafkaPartition(*tp)
        try:
            is_ours = partition in self._client.assignment()
        except ConsumerNotStarted:
            return -1
        if not is_ours:
            return -1
        state = self._client._subscription.subscription.assignment.state_value(partition)
        return int(state.position) if state.has_valid_position else -1

    def _set_paused(self, tp: TopicPartition, paused: bool) -> None:
        self._pause_fetching({TP(*tp)}, paused)

    def _pause_fetching(self, tps: Iterable[TP], paused: bool) -> None:
        client = self._client
        assigned = client.assignment()
        mine = [KafkaPartition(tp.topic, tp.partition) for tp in tps if tp in assigned]
        (client.pause if paused else client.resume)(*mine)
        if not paused:
            self._fetcher_of_client.look_again()

    # Faust only remembers which partitions are paused and goes on fetching them; after a recovery each own changelog
    # write would be fetched back, and sources would be read ahead during it.

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Stop fetching ``tps``, at the broker too."""
        super().pause_partitions(tps)
        self._pause_fetching(tps, True)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch ``tps`` again."""
        super().resume_partitions(tps)
        self._pause_fetching(tps, False)

    # -- positions and commit ---------------------------------------------------------------------

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Open the lanes of the new assignment and seek each source to ``max(committed, applied)``."""
        sources = {tp for tp in self.assignment() if tp.topic in self._engine.sources}
        begins = await self.earliest_offsets(*sources) if sources else {}
        ends = await self.highwaters(*sources) if sources else {}
        committed = await self.committed(KafkaPartition(*tp) for tp in sources)
        positions: dict[TopicPartition, SourcePosition] = {
            (tp.topic, tp.partition): SourcePosition(begins[tp] or 0, ends[tp] or 0, committed[KafkaPartition(*tp)])
            for tp in sources
        }
        await self._engine.close_lanes()
        ends_read = {tp: await self._read_up_to(tp) for tp in map(self._engine.changelog_for, positions)}
        try:
            starts = self._engine.open_lanes(positions, ends_read)
        except Exception as exc:
            cast("EngineApp", self.app).fatal(str(exc), exc)
            raise
        for tp, start in starts.items():
            self._client.seek(KafkaPartition(*tp), start)
        if self._stood_still_at:
            self._engine.rebalanced(time.monotonic() - self._stood_still_at)
            self._stood_still_at = 0.0
        return {TP(*tp): start for tp, start in starts.items()}

    async def _read_up_to(self, changelog: TopicPartition) -> int:
        tp = KafkaPartition(*changelog)
        return await self._client.position(tp) if tp in self._client.assignment() else 0

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (TP(*tp) for tp in self._engine.committable() if topics is None or tp in topics or tp[0] in topics)

    def _new_offset(self, tp: TP) -> int | None:
        return self._engine.committable().get((tp.topic, tp.partition))

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """No gaps to track: a lane's durable offset is a prefix by construction."""

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:
        # Durable already means acknowledged, so there is no producer to flush here.
        mine = {tp: offset for tp, offset in offsets.items() if tp in self.assignment()}
        if not mine:
            return False
        started = time.perf_counter()
        ok = await self._commit(mine)
        self._engine.committed({(tp.topic, tp.partition): offset for tp, offset in mine.items()}, time.perf_counter() - started, ok)
        if ok:
            self._committed_offset.update(mine)
        return ok

    async def wait_empty(self) -> None:
        """Before a rebalance or stop: finish the units in flight, commit them, stop the lanes. Bounded, else the process ends.

        A stop may come in the middle of a rebalance. It waits for the same lanes: what they need is released once, after them.
        """
        if self._giving_up is None or self._giving_up.done():
            self._giving_up = asyncio.get_running_loop().create_task(self._give_up(), name="give-up-lanes")
        await asyncio.shield(self._giving_up)

    async def _give_up(self) -> None:
        self._stood_still_at = time.monotonic()
        limit_s = _DRAIN_LIMITS * self._engine.settings.drain_timeout_ms / 1000
        try:
            async with asyncio.timeout(limit_s):
                await self._give_up_lanes()
        except TimeoutError as exc:
            cast("EngineApp", self.app).fatal(f"lanes were not given up within {limit_s:g} s (twice drain_timeout_ms)", exc)

    async def _give_up_lanes(self) -> None:
        offsets = await self._engine.close_lanes()
        await self.maybe_wait_for_commit_to_finish()
        await self._commit_offsets({TP(*tp): offset for tp, offset in offsets.items()})
        await self._engine.release()

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Take over from the predecessors before Faust reads committed offsets and changelogs (exactly once)."""
        try:
            await self._engine.acquire({tp.partition for tp in assigned if tp.topic in self._engine.sources})
        except Exception as exc:  # aiokafka logs what a listener raises and goes on: the worker would stand still
            cast("EngineApp", self.app).fatal(f"cannot take over the transactions of partitions: {type(exc).__name__}: {exc}", exc)
            raise
        await super().on_partitions_assigned(assigned, generation_id)

    async def committed(self, tps: Iterable[KafkaPartition]) -> dict[KafkaPartition, int]:
        """The group's committed offsets, asked of the broker; -1 for none."""
        return {tp: commit.offset for tp, commit in (await self.commits(tps)).items()}

    async def commits(self, tps: Iterable[KafkaPartition]) -> dict[KafkaPartition, OffsetAndMetadata]:
        """The group's committed offsets with what was noted beside them; -1 and nothing for none."""
        wanted = list(tps)
        found = await self._client._coordinator.fetch_committed_offsets(wanted)
        return {tp: found.get(tp, OffsetAndMetadata(-1, "")) for tp in wanted}

    async def is_member(self) -> bool:
        """Ask the broker whether this worker is in the current generation of its group.

        A rebalance that has begun changes nothing yet: nobody gets our partitions before we give them up or time out.

        Raises:
            KafkaError: nobody could say; ask again.
        """
        coordinator = self._client._coordinator
        request = HeartbeatRequest(coordinator.group_id, coordinator.generation, coordinator.member_id)
        code = (await coordinator._send_req(request)).error_code
        if code in (UnknownMemberIdError.errno, IllegalGenerationError.errno, FENCED_INSTANCE_ID):
            return False
        if code in (NoError.errno, RebalanceInProgressError.errno):
            return True
        raise for_code(code)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's detector looks at streams that are not there; /livez has the watchdog over lanes."""


class EngineProducer(driver.Producer):
    """Idempotent, acks=all, also without transactions."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class EngineTransport(driver.Transport):
    """Wires the two into Faust."""

    Consumer = EngineConsumer
    Producer = EngineProducer


__all__ = ["EngineConsumer", "EngineProducer", "EngineTransport"]

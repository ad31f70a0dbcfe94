"""The engine of one worker: which lanes run, what the fetch loop hands them, what may be committed.

Faust tells it when partitions come and go (through :mod:`app.engine.consumer`, ``tables`` and
``recovery``); everything between a fetched record and durable state happens in the lanes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from app.engine.api import LaneId, Record, Retries
from app.engine.breaker import BreakerPolicy, Breakers
from app.engine.compute import Computer
from app.engine.declare import AgentDeclaration
from app.engine.delivery import Delivery
from app.engine.guard import Fatal
from app.engine.identity import check_not_lost, check_source_end
from app.engine.journal import CrashJournal
from app.engine.key_order import KeyOrder, OrderLimits
from app.engine.lane import Lane, LaneLimits, LaneParts, Ticks
from app.engine.order import AsTheyCome, Order
from app.engine.progress import Progress
from app.engine.state import LaneState
from app.engine.status import DurableListener, Observer
from app.engine.store import PartitionStore, StoreOptions, partition_path
from app.engine.tiers import LOOK_S, LOOK_WAITING_S, Tier, Tiers
from app.engine.tracing import PassOn, Tracing
from app.settings import Settings
from app.topics import changelog_of

log = structlog.get_logger(__name__)

TopicPartition = tuple[str, int]

#: How often an agent with ticks is called while nothing comes, seconds: results are to leave within one of being due.
TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class SourcePosition:
    """Where a source partition stands at the broker. Offsets; ``committed`` is -1 for a group that never committed."""

    begin: int
    end: int
    committed: int


@dataclass(frozen=True, slots=True)
class EngineParts:
    """What the engine needs from outside; every part can be a fake."""

    settings: Settings
    agents: Sequence[AgentDeclaration]
    delivery: Delivery
    observer: Observer
    listener: DurableListener
    fatal: Fatal
    retries: Mapping[str, Retries] = field(default_factory=dict)
    """by source topic; without, what is to be tried again is a dead letter"""
    tracing: Tracing = field(default_factory=PassOn)


class Engine:
    """Lanes and stores of this worker."""

    def __init__(self, parts: EngineParts) -> None:
        settings = parts.settings
        self.settings = settings
        self.lanes: dict[LaneId, Lane] = {}
        self.stores: dict[TopicPartition, PartitionStore] = {}
        self.changelogs = {changelog_of(settings.app_id, agent.name): agent for agent in parts.agents}
        self.sources = {topic: agent for agent in parts.agents for topic in _topics_of(agent, parts.retries)}
        """Every topic that a lane reads, those of retry tiers too"""
        self.set_paused: Callable[[TopicPartition, bool], None] = lambda tp, paused: None
        self.is_at_end: Callable[[TopicPartition, int], bool] = lambda tp, since_ms: False
        self._journal = CrashJournal(settings.data_dir / "crashes", settings.crash_attempts)
        self.fatal = self._journal.sparing(parts.fatal)
        """Ends the process; the records being processed are not to blame"""
        self.breakers = Breakers(BreakerPolicy.of(settings))
        self._parts = parts
        self._options = StoreOptions.of(settings)
        self.contexts: dict[str, Any] = {agent.name: agent.setup(settings) for agent in parts.agents}
        """What each agent's ``setup`` returned"""

    # -- stores: opened before recovery, closed after the lanes ----------------------------------------

    def open_store(self, changelog: str, partition: int) -> PartitionStore:
        """The RocksDB behind one changelog partition; opened on first use."""
        store = self.stores.get((changelog, partition))
        if store is None:
            path = partition_path(self.settings.data_dir, self.changelogs[changelog].name, partition)
            store = self.stores[changelog, partition] = PartitionStore(path, self._options)
        return store

    def close_store(self, changelog: str, partition: int) -> None:
        """Release the RocksDB of a partition that was given away; its lane must be closed."""
        store = self.stores.pop((changelog, partition), None)
        if store is not None:
            store.close()

    def restore(self, changelog: str, partition: int, records: Sequence[Record], next_offset: int) -> None:
        """Write changelog records that were read during recovery; ``next_offset``: the reader's position."""
        store = self.stores.get((changelog, partition))
        lane = LaneId(self.changelogs[changelog].name, partition)
        if store is None or lane in self.lanes or not records:  # a running lane is the only writer of its store
            return
        store.restore(records, next_offset)
        size = sum(len(record.value or b"") + len(record.key or b"") for record in records)
        self._parts.observer.restored(lane, len(records), size)

    # -- lanes: opened when recovery is complete, closed before a rebalance or stop --------------------

    def changelog_for(self, source: TopicPartition) -> TopicPartition:
        """The changelog partition of a source partition's lane."""
        return changelog_of(self.settings.app_id, self.sources[source[0]].name), source[1]

    def open_lanes(
        self, positions: Mapping[TopicPartition, SourcePosition], changelog_ends: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        """Start a lane per agent and assigned partition number; returns where to read each topic of it from.

        Args:
            positions: of the source partitions.
            changelog_ends: up to where recovery has read each changelog partition (next offset).

        Raises:
            SourceShrank: a topic was deleted and created again under its table.
        """
        starts: dict[TopicPartition, int] = {}
        for changelog in dict.fromkeys(map(self.changelog_for, positions)):
            of_lane = {tp: position for tp, position in positions.items() if self.changelog_for(tp) == changelog}
            starts |= self._open_lane(changelog, of_lane, changelog_ends.get(changelog, 0))
        return starts

    def _open_lane(
        self, changelog: TopicPartition, positions: Mapping[TopicPartition, SourcePosition], changelog_end: int
    ) -> dict[TopicPartition, int]:
        agent, partition = self.changelogs[changelog[0]], changelog[1]
        store = self.open_store(*changelog)
        progress = Progress(store.marker(), store.changelog_offset())
        progress.changelog_end = max(progress.changelog_end, changelog_end)
        starts = {tp: self._start_offset(tp, progress, position) for tp, position in positions.items()}
        for (topic, _), start in starts.items():
            progress.start_at(topic, start)
            progress.committed[topic] = positions[topic, partition].committed
        parts, limits = self._lane_parts(agent, partition, store, progress), self._lane_limits(agent)
        lane = Lane(LaneId(agent.name, partition), changelog[0], parts, limits, progress)
        self.lanes[lane.id] = lane
        lane.start()
        self._parts.listener.lane_started(LaneTableView(lane))
        return starts

    def _start_offset(self, tp: TopicPartition, progress: Progress, position: SourcePosition) -> int:
        topic, partition = tp
        check_not_lost(topic, partition, position.committed, position.begin, progress.changelog_offset)
        applied = progress.next_offset(topic)
        check_source_end(topic, partition, applied, position.end)
        if _is_rewind(position, progress.durable_marker.committed.get(topic, -1), applied):
            hint = "these events are applied; to process them again run `veltrix reset --to-earliest` or `--to-time`"
            log.warning(
                "rewind_ignored", topic=topic, partition=partition, committed=position.committed, applied=applied, hint=hint
            )
        start = max(position.committed, applied)
        if start < 0:
            return position.begin
        if start < position.begin:
            log.error("source_truncated", topic=topic, partition=partition, lost_from=start, lost_to=position.begin - 1)
        return max(start, position.begin)

    def _lane_parts(self, agent: AgentDeclaration, partition: int, store: PartitionStore, progress: Progress) -> LaneParts:
        parts, tp, retries = self._parts, (agent.source, partition), self._parts.retries.get(agent.source)
        state = LaneState(store, self.settings.hot_values // max(1, self.settings.partitions), agent.views)
        lane = LaneId(agent.name, partition)
        limit = self.settings.produce_max_batch_bytes
        journal = self._journal.open(lane, progress.is_applied)
        order = AsTheyCome() if retries is None else KeyOrder(store, retries, self._order_limits())
        return LaneParts(
            computer=Computer(lane, agent.body, self.contexts[agent.name], state, limit, journal, retries, order),
            state=state,
            delivery=parts.delivery,
            observer=parts.observer,
            listener=parts.listener,
            fatal=self.fatal,
            set_paused=lambda paused: self.set_paused(tp, paused),
            tiers=Tiers() if retries is None else self._tiers(retries, partition, order),
            order=order,
            breaker=self.breakers.of(lane),
            ticks=Ticks(tp[0], TICK_S, lambda: self.is_at_end(tp, 0)) if agent.ticks else None,
            tracing=parts.tracing,
        )

    def _order_limits(self) -> OrderLimits:
        s = self.settings
        return OrderLimits(s.key_order_max_waiting if s.key_order else 0, s.dlq_retention_ms + s.retry_give_up_ms)

    def _tiers(self, retries: Retries, partition: int, order: Order) -> Tiers:
        return Tiers(self._tier((topic, partition), retries, order) for topic in retries.topics)

    def _tier(self, tp: TopicPartition, retries: Retries, order: Order) -> Tier:
        return Tier(
            tp[0],
            retries,
            lambda paused: self.set_paused(tp, paused),
            is_at_end=lambda since_ms: self.is_at_end(tp, since_ms),
            look_s=lambda: LOOK_WAITING_S if order.is_holding else LOOK_S,
        )

    def _lane_limits(self, agent: AgentDeclaration) -> LaneLimits:
        s = self.settings
        return LaneLimits(
            s.unit_max_records, s.unit_max_bytes, s.unit_depth, s.settle_interval_ms / 1000, s.lane_high_water, s.lane_low_water,
            s.produce_max_batch_bytes, s.drain_timeout_ms / 1000, agent.linger_ms / 1000,
        )  # fmt: skip

    async def acquire(self, partitions: Iterable[int]) -> None:
        """Source partitions of these numbers were assigned; before their changelogs are read."""
        await self._parts.delivery.acquire(partitions)

    async def release(self) -> None:
        """A rebalance or stop begins; the lanes are closed."""
        await self._parts.delivery.release()

    async def close_lanes(self) -> dict[TopicPartition, int]:
        """Finish the units in flight of every lane and stop them all; returns what may be committed for them.

        Stores stay open. Exits the process when a lane does not finish within the drain timeout.
        """
        lanes, self.lanes = list(self.lanes.values()), {}
        await asyncio.gather(*(lane.close() for lane in lanes))
        for lane in lanes:
            self._journal.close(lane.id)
        return {} if self._parts.delivery.commits_offsets else _committable(lanes)

    # -- fetch and commit ------------------------------------------------------------------------------

    def submit(self, topic: str, partition: int, records: Sequence[Record]) -> None:
        """Hand fetched source records to their lane; without a lane they are dropped (they will be fetched again)."""
        lane = self.lanes.get(LaneId(self.sources[topic].name, partition))
        if lane is not None:
            lane.offer(records)

    def committable(self) -> dict[TopicPartition, int]:
        """Next offset per source partition of the running lanes: everything below is durable."""
        return {} if self._parts.delivery.commits_offsets else _committable(self.lanes.values())

    def rebalanced(self, seconds: float) -> None:
        """A rebalance is over: nothing was processed for ``seconds``."""
        self._parts.observer.rebalanced(seconds, len(self.lanes))

    def committed(self, offsets: Mapping[TopicPartition, int], seconds: float, ok: bool) -> None:
        """The group's offsets were committed (or not)."""
        self._parts.observer.committed(seconds, ok)
        if not ok:
            return
        for (topic, partition), offset in offsets.items():
            agent = self.sources.get(topic)
            lane = self.lanes.get(LaneId(agent.name, partition)) if agent else None
            if lane is not None:
                lane.progress.commit({topic: offset})


def _topics_of(agent: AgentDeclaration, retries: Mapping[str, Retries]) -> list[str]:
    """What a lane of this agent reads: its source, and the tiers of that."""
    return [agent.source, *(retries[agent.source].topics if agent.source in retries else ())]


def _is_rewind(position: SourcePosition, known: int, applied: int) -> bool:
    """Someone moved the group back: below what it had committed by the last marker, or to the very start.

    Being behind ``applied`` alone is no rewind: after a crash the last commits are missing. The group never commits
    the start by itself, and a marker from before its first commit knows of none.
    """
    return 0 <= position.committed < applied and (position.committed < known or position.committed <= position.begin)


def _committable(lanes: Iterable[Lane]) -> dict[TopicPartition, int]:
    """What is durable and not yet committed. Never below where a lane began: that would commit backwards."""
    found = {}
    for lane in lanes:
        for topic, committed in lane.progress.committed.items():
            offset = lane.progress.next_offset(topic)
            if offset > committed and offset >= lane.progress.start_offset(topic):
                found[topic, lane.id.partition] = offset
    return found


class LaneTableView:
    """Read access to a lane's durable table (see :class:`app.engine.status.LaneTable`)."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane.id
        self.changelog_topic = lane.changelog_topic
        self._lane = lane

    def changelog_offset(self) -> int:
        """Last changelog offset in RocksDB."""
        return self._lane.progress.changelog_offset

    def estimated_keys(self) -> int:
        """How many keys there are at most, by RocksDB's estimate."""
        return self._lane.state.store.estimated_keys()

    def scan(self, prefix: bytes, start_after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Pairs in key order."""
        return self._lane.state.store.scan(prefix, start_after, limit)

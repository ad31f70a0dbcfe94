"""The running engine as the sidecar and the metrics see it (see :class:`app.engine.status.EngineStatus`)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from aiokafka.errors import KafkaError
from faust.exceptions import ConsumerNotStarted
from faust.types import TP

from app.engine.api import LaneId
from app.engine.consumer import EngineConsumer
from app.engine.faust_app import EngineApp
from app.engine.lane import Lane
from app.engine.status import HeldKeys, LaneStatus, Phase, RecoveryStatus, StandbyStatus
from app.engine.tables import EngineTables

NOTHING_KNOWN: Final[Mapping[tuple[str, int], int]] = MappingProxyType({})


class RunningEngine:
    """Reads Faust's and the lanes' state; never changes it.

    ``known_ends``: end offsets by topic and partition that someone else asked for (:mod:`app.engine.watchdog`). The
    consumer's own come with its fetches, so they stand still when fetching has died.
    """

    def __init__(self, app: EngineApp, known_ends: Mapping[tuple[str, int], int] = NOTHING_KNOWN) -> None:
        self._app = app
        self._known_ends = known_ends

    def phase(self) -> Phase:
        """Where the worker is in its life."""
        app = self._app
        if app.should_stop:
            return "stopping"
        if not app.started or app._consumer is None or (app.unassigned and not app.tables.actives_ready):
            return "starting"
        if app.in_recovery:
            return "recovering"
        if app.tables.actives_ready and not app.rebalancing:
            return "running"
        return "rebalancing" if app.rebalancing_count > 1 else "joining"

    def waiting_for(self) -> list[str]:
        """What readiness waits for, in words."""
        app, phase = self._app, self.phase()
        if phase == "recovering":
            return [f"recovery: {self.recovery().remaining} changelog records to restore"]
        if phase != "running":
            return [{"stopping": "nothing: the worker is stopping"}.get(phase, "partitions to be assigned by the consumer group")]
        return [] if app._producer is not None and app._producer._producer is not None else ["the producer to connect"]  # type: ignore[attr-defined]

    def recovery(self) -> RecoveryStatus:
        """Progress of the current or last recovery."""
        return cast("EngineTables", self._app.tables).recovery.status()

    def standbys(self) -> list[StandbyStatus]:
        """Warm copies that this worker keeps for others, by changelog and partition."""
        return cast("EngineTables", self._app.tables).recovery.standbys()

    def owns(self, lane: LaneId) -> bool:
        """The lane runs here."""
        return lane in self._app.engine.lanes

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None:
        """Newest durable raw value."""
        return self._app.engine.lanes[lane].state.store.get(raw_key)

    def lanes(self) -> list[LaneStatus]:
        """All lanes of this worker, by agent and partition."""
        lanes = self._app.engine.lanes
        held = {lane: lanes[lane].held for lane in lanes}  # counted once, whatever the number of its topics
        return [self._lane(lanes[lane], topic, held[lane]) for lane in sorted(lanes) for topic in lanes[lane].progress.committed]

    def _lane(self, lane: Lane, topic: str, held: HeldKeys) -> LaneStatus:
        now, progress = time.monotonic(), lane.progress
        next_offset = max(progress.next_offset(topic), progress.start_offset(topic))
        return LaneStatus(
            lane=lane.id,
            topic=topic,
            queued_records=lane.queued,
            units_in_flight=lane.units_in_flight,
            paused=lane.paused,
            next_offset=next_offset,
            committed_offset=progress.committed[topic],
            end_offset=next_offset if self._is_empty(lane, topic) else self._end_offset(topic, lane.id.partition),
            changelog_offset=progress.changelog_offset,
            ledger=progress.durable_marker.ledger(),
            seconds_since_progress=now - progress.last_progress,
            seconds_since_commit=now - progress.last_commit,
            state_keys=lane.state.store.estimated_keys(),
            breaker=self._app.engine.breakers.status(lane.id),
            waiting=lane.state.waiting(),
            is_tier=topic in lane.tiers,
            not_due=lane.tiers.held(topic),
            dead_letters_wait_s=lane.dead_letters_wait_s,
            held=held,
        )

    async def position(self, topic: str, partition: int) -> int:
        """The next offset to fetch; -1 when unknown. At the end of the log it is behind what no lane sees (control records)."""
        try:
            position = await self._app.consumer.position(TP(topic, partition))
        except (ConsumerNotStarted, KafkaError, TimeoutError):  # not assigned any more, or no broker to ask
            return -1
        return -1 if position is None else position

    def _is_empty(self, lane: Lane, topic: str) -> bool:
        """A tier of which all records are applied. It may end in control records of our own, which no lane ever sees."""
        if topic not in lane.tiers or lane.queued or lane.units_in_flight or lane.tiers.held(topic):
            return False
        return cast("EngineConsumer", self._app.consumer).read_up_to((topic, lane.id.partition)) >= max(
            0, self._end_offset(topic, lane.id.partition)
        )

    def _end_offset(self, topic: str, partition: int) -> int:
        """The highest end that anyone told; -1 when nobody did."""
        known = self._known_ends.get((topic, partition), -1)
        try:
            end = self._app.consumer.highwater(TP(topic, partition))
        except (ConsumerNotStarted, AssertionError, KeyError):  # not assigned any more
            return known
        fetched = cast("int | None", end)  # Faust says int; aiokafka has None before the first fetch
        return known if fetched is None else max(known, fetched)

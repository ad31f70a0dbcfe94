"""Recovery of tables from their changelogs, in batches.

Faust decides what to restore and in which order (its phases stay); records go from the fetch loop
straight into RocksDB, a batch at a time, instead of one by one through a queue. Whether a partition is
complete is read from the consumer's position, not from the last record: compaction, deleted records and
transaction markers leave offsets that no record will ever have.

Standbys are followed after that, by the same path: Faust resumes their changelog partitions, whatever is fetched
of one goes into its RocksDB as one write. A standby that becomes active restores only what is missing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from faust.types import TP
from mode.services import Service

from app.engine.api import LaneId
from app.engine.identity import ChangelogShrank, check_end
from app.engine.status import RecoveryStatus, StandbyStatus

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp
    from app.engine.tables import EngineTables

log = structlog.get_logger(__name__)

#: How often the end of recovery is looked for, seconds.
_CHECK_S = 0.02
#: How often progress is logged, seconds.
_LOG_S = 5.0
#: How often it is looked how far standbys have been read, seconds.
_STANDBY_S = 0.5
#: A broker that has just become leader, or is still writing a transaction's markers, may show an older end for this long.
_END_TRIES = 25
_END_WAIT_S = 0.2


class EngineRecovery(Recovery):
    """Faust's recovery service, fed by the engine."""

    #: How long a broker may take to answer what recovery asks, seconds; a restarting cluster needs some.
    broker_wait_s = 90.0
    _started_mono = 0.0
    _ended_mono = 0.0
    _total = 0

    def status(self) -> RecoveryStatus:
        """Progress now, or of the last recovery."""
        remaining = max(0, self.active_remaining_total()) if self.in_recovery else 0
        seconds = (time.monotonic() if self.in_recovery else self._ended_mono) - self._started_mono
        restored = max(0, self._total - remaining)
        rate = restored / seconds if seconds > 0 else 0.0
        return RecoveryStatus(self.in_recovery, restored, remaining, rate, seconds)

    def standbys(self) -> list[StandbyStatus]:
        """The warm copies on this worker, by changelog topic and partition."""
        return [self._standby(tp) for tp in sorted(self.standby_tps)]

    def _standby(self, tp: TP) -> StandbyStatus:
        app = cast("EngineApp", self.app)
        # Faust types both as int; they are None before the seek and before the first fetch.
        offset = cast("int | None", self.standby_offsets[tp])
        end = cast("int | None", app.consumer.highwater(tp))
        lag = -1 if offset is None or end is None else max(0, end - 1 - offset)
        return StandbyStatus(LaneId(app.engine.changelogs[tp.topic].name, tp.partition), lag)

    async def on_rebalance(self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0) -> None:
        """As Faust does; and forget standbys that are none any more (Faust keeps their offsets)."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        self.standby_highwaters.clear()
        for tp in set(self.standby_offsets) - self.standby_tps:
            del self.standby_offsets[tp]

    async def _build_highwaters(self, consumer: Any, tps: set[TP], destination: Counter[TP], title: str) -> None:
        # A table that is ahead of its changelog: Faust crashes over it, after recovery was announced, without saying
        # what to do.
        offsets = self.active_offsets if title == "active" else self.standby_offsets
        for _ in range(_END_TRIES):
            await super()._build_highwaters(consumer, tps, destination, title)
            try:
                for tp in tps:
                    check_end(tp.topic, tp.partition, -1 if offsets[tp] is None else offsets[tp], destination[tp] + 1)
            except ChangelogShrank as exc:
                reason = str(exc)
                await asyncio.sleep(_END_WAIT_S)
            else:
                return
        cast("EngineTables", self.tables).refuse(reason)

    def _set_recovery_started(self) -> None:
        super()._set_recovery_started()
        self.signal_recovery_end.clear()
        self._started_mono = time.monotonic()
        self._total = max(0, self.active_remaining_total())

    def _set_recovery_ended(self) -> None:
        if self.in_recovery:
            self._ended_mono = time.monotonic()
            if self._total:
                status = self.status()
                log.info("recovered", records=self._total, seconds=round(status.seconds, 2))
        super()._set_recovery_ended()

    @Service.task
    async def _slurp_changelogs(self) -> None:
        # Faust's task of this name takes changelog events from a queue that stays empty here.
        logged = looked = time.monotonic()
        while not self.should_stop:
            await asyncio.sleep(_CHECK_S)
            if not self.in_recovery and self.standby_tps and time.monotonic() - looked > _STANDBY_S:
                looked = time.monotonic()
                await self._follow_standbys()
            if not self.in_recovery or not self.active_highwaters:
                continue
            if not self.need_recovery():
                self._set_recovery_ended()
                self.signal_recovery_end.set()
            elif time.monotonic() - logged > _LOG_S:
                logged, status = time.monotonic(), self.status()
                log.info("recovering", remaining=status.remaining, records_per_second=round(status.records_per_second))

    async def read_positions(self) -> None:
        """Take over how far the consumer has read. Called by the fetch loop after it has restored what it read."""
        await self._read_positions(self.active_tps, self.active_offsets)

    async def _follow_standbys(self) -> None:
        await self._read_positions(self.standby_tps, self.standby_offsets)
        if not self.tables.standbys_ready and self.standby_highwaters and self.standby_remaining_total() <= 0:
            log.info("standbys_ready", partitions=len(self.standby_tps))
            self.tables.on_standbys_ready()

    async def _read_positions(self, tps: set[TP], offsets: Counter[TP]) -> None:
        for tp in list(tps):
            try:
                position = await self.app.consumer.position(tp)
            except IllegalStateError:  # revoked meanwhile
                return
            if position is not None and tp in offsets:
                offsets[tp] = max(-1 if offsets[tp] is None else offsets[tp], position - 1)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - Faust's signature
        # mode's wait_first reports a timeout as "stopped"; Faust then ends recovery for good and the worker is never
        # ready, without an error (no upstream issue found). A worker that cannot restore must say so and go.
        signal = cast("Any", self.signal_recovery_start)
        timeout = max(timeout or 0.0, self.broker_wait_s)  # Faust's is that of one request, which is repeated
        result = await self.wait_first(coro, signal, timeout=timeout)
        if result.stopped:
            if not self.should_stop and not self.app.should_stop:
                app = cast("EngineApp", self.app)
                app.fatal(f"recovery: the broker did not answer within {timeout} s", None)
            raise ServiceStopped
        if signal in result.done:
            raise RebalanceAgain

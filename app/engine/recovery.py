"""Recovery of tables from their changelogs, in batches.

Faust decides what to restore and in which order (its phases stay); records go from the fetch loop
straight into RocksDB, a batch at a time, instead of one by one through a queue. Whether a partition is
complete is read from the consumer's position, not from the last record: compaction, deleted records and
transaction markers leave offsets that no record will ever have.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import structlog
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode.services import Service

from app.engine.status import RecoveryStatus

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp

log = structlog.get_logger(__name__)

#: How often the end of recovery is looked for, seconds.
_CHECK_S = 0.02
#: How often progress is logged, seconds.
_LOG_S = 5.0


class EngineRecovery(Recovery):
    """Faust's recovery service, fed by the engine."""

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
        logged = time.monotonic()
        while not self.should_stop:
            await asyncio.sleep(_CHECK_S)
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
        for tp in list(self.active_tps):
            try:
                position = await self.app.consumer.position(tp)
            except IllegalStateError:  # revoked meanwhile
                return
            if position is not None and tp in self.active_offsets:
                self.active_offsets[tp] = max(self.active_offsets[tp] or -1, position - 1)

    async def _wait(self, coro: Any, timeout: Any = None) -> None:  # noqa: ASYNC109 - Faust's signature
        # mode's wait_first reports a timeout as "stopped"; Faust then ends recovery for good and the worker is never
        # ready, without an error (no upstream issue found). A worker that cannot restore must say so and go.
        signal = cast("Any", self.signal_recovery_start)
        result = await self.wait_first(coro, signal, timeout=timeout)
        if result.stopped:
            if not self.should_stop and not self.app.should_stop:
                app = cast("EngineApp", self.app)
                app.fatal(f"recovery: the broker did not answer within {timeout} s", None)
            raise ServiceStopped
        if signal in result.done:
            raise RebalanceAgain

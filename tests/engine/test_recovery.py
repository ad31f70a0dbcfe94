"""When a restore is complete, how fast it is, and that a broker that does not answer is never mistaken for a stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka.errors import IllegalStateError
from faust.tables.recovery import RebalanceAgain, ServiceStopped
from faust.types import TP
from structlog.testing import capture_logs

from app.engine import recovery as module
from app.engine.faust_app import new_faust_app
from app.engine.recovery import EngineRecovery
from app.engine.tables import EngineTables
from tests.engine.support import EngineRig, FakeFatal

C0, C1 = TP("veltrix-count-changelog", 0), TP("veltrix-count-changelog", 1)


class FakeConsumer:
    """Knows how far each partition has been read; raises for partitions that are not assigned."""

    def __init__(self) -> None:
        self.positions: dict[TP, int | None] = {}

    async def position(self, tp: TP) -> int | None:
        if tp not in self.positions:
            raise IllegalStateError(f"{tp} is not assigned")
        return self.positions[tp]


class Clock:
    """Seconds that pass when a test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The recovery's monotonic clock."""
    clock = Clock()
    monkeypatch.setattr("app.engine.recovery.time.monotonic", clock)
    return clock


@pytest.fixture
async def recovery(tmp_path: Path) -> EngineRecovery:
    """The table manager's recovery, two partitions to restore: 100 records and 50."""
    rig = EngineRig.new(tmp_path)
    app = new_faust_app(rig.settings, None)
    app.engine, app.fatal = rig.engine, rig.fatal
    tables = cast("EngineTables", app.tables)
    found = tables.recovery
    assert tables.recovery is found
    app._consumer = FakeConsumer()  # type: ignore[assignment]
    found.active_tps = {C0, C1}
    found.active_offsets = Counter({C0: -1, C1: 49})
    found.active_highwaters = Counter({C0: 99, C1: 99})
    return found


def consumer(recovery: EngineRecovery) -> FakeConsumer:
    """Its fake consumer."""
    return recovery.app.consumer  # type: ignore[return-value]


def restored(recovery: EngineRecovery) -> None:
    """Everything is read."""
    recovery.active_offsets = Counter({C0: 99, C1: 99})


def fatal(recovery: EngineRecovery) -> FakeFatal:
    """What would have ended the process."""
    return recovery.app.fatal  # type: ignore[attr-defined, no-any-return]


# -- positions ----------------------------------------------------------------------------------------


async def test_a_restore_is_complete_by_position_even_when_the_last_offsets_have_no_record(recovery: EngineRecovery) -> None:
    consumer(recovery).positions = {C0: 98, C1: 100}
    await recovery.read_positions()
    assert recovery.need_recovery()
    assert recovery.active_remaining_total() == 2
    consumer(recovery).positions = {C0: 100, C1: 100}  # 98 and 99 were compacted away, or are transaction markers
    await recovery.read_positions()
    assert not recovery.need_recovery()


async def test_a_position_never_takes_back_what_the_table_has(recovery: EngineRecovery) -> None:
    consumer(recovery).positions = {C0: 0, C1: 10}
    await recovery.read_positions()
    assert recovery.active_offsets == {C0: -1, C1: 49}


async def test_an_empty_table_has_no_offset_until_something_is_read(recovery: EngineRecovery) -> None:
    recovery.active_offsets[C0] = None  # type: ignore[assignment] # what Faust puts there for a new store
    consumer(recovery).positions = {C0: 1, C1: 50}
    await recovery.read_positions()
    assert recovery.active_offsets[C0] == 0


async def test_a_partition_without_a_position_stays_where_it_is(recovery: EngineRecovery) -> None:
    consumer(recovery).positions = {C0: None, C1: 60}
    await recovery.read_positions()
    assert recovery.active_offsets == {C0: -1, C1: 59}


async def test_partitions_that_were_revoked_meanwhile_are_left_alone(recovery: EngineRecovery) -> None:
    await recovery.read_positions()
    del recovery.active_offsets[C1]
    consumer(recovery).positions = {C0: 10, C1: 60}
    await recovery.read_positions()
    assert recovery.active_offsets == {C0: 9}


# -- the end ------------------------------------------------------------------------------------------


async def test_recovery_ends_when_every_partition_is_read_to_its_end(
    recovery: EngineRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_S", 0)
    recovery._set_recovery_started()
    task = asyncio.ensure_future(recovery._slurp_changelogs.fun(recovery))
    await asyncio.sleep(0.005)
    assert (recovery.in_recovery, recovery.signal_recovery_end.is_set()) == (True, False)
    restored(recovery)
    await asyncio.wait_for(recovery.signal_recovery_end.wait(), 1)
    assert (recovery.in_recovery, recovery.app.in_recovery) == (False, False)
    recovery._stopped.set()
    await asyncio.wait_for(task, 1)


async def test_a_new_recovery_is_not_ended_by_the_signal_of_the_last(recovery: EngineRecovery) -> None:
    recovery.signal_recovery_end.set()
    recovery._set_recovery_started()
    assert not recovery.signal_recovery_end.is_set()


# -- progress -----------------------------------------------------------------------------------------


async def test_progress_counts_from_the_start_of_the_recovery(recovery: EngineRecovery, clock: Clock) -> None:
    assert not recovery.status().active
    recovery._set_recovery_started()
    clock.now += 2
    recovery.active_offsets[C0] = 59
    status = recovery.status()
    assert (status.active, status.restored, status.remaining) == (True, 60, 90)
    assert (status.records_per_second, status.seconds) == (30, 2)


async def test_the_last_recovery_keeps_its_figures(recovery: EngineRecovery, clock: Clock) -> None:
    recovery._set_recovery_started()
    clock.now += 3
    restored(recovery)
    with capture_logs() as logs:
        recovery._set_recovery_ended()
    clock.now += 1000
    recovery.active_offsets[C0] = 0  # a later life of the partition
    status = recovery.status()
    assert (status.active, status.restored, status.remaining) == (False, 150, 0)
    assert (status.records_per_second, status.seconds) == (50, 3)
    assert [(entry["event"], entry["records"], entry["seconds"]) for entry in logs] == [("recovered", 150, 3)]


async def test_a_recovery_with_nothing_to_do_takes_no_time_and_says_nothing(recovery: EngineRecovery, clock: Clock) -> None:
    restored(recovery)
    recovery._set_recovery_started()
    with capture_logs() as logs:
        recovery._set_recovery_ended()
        recovery._set_recovery_ended()
    assert (recovery.status().records_per_second, logs) == (0, [])


# -- waiting for the broker ---------------------------------------------------------------------------


async def test_a_broker_that_does_not_answer_ends_the_process(recovery: EngineRecovery) -> None:
    with pytest.raises(ServiceStopped):
        await recovery._wait(asyncio.Event(), timeout=0.01)
    assert fatal(recovery).reasons == ["recovery: the broker did not answer within 0.01 s"]


async def test_a_stop_while_waiting_is_only_a_stop(recovery: EngineRecovery) -> None:
    recovery._stopped.set()
    with pytest.raises(ServiceStopped):
        await recovery._wait(asyncio.Event(), timeout=5)
    assert fatal(recovery).reasons == []


async def test_another_rebalance_while_waiting_begins_again(recovery: EngineRecovery) -> None:
    recovery.signal_recovery_start.set()
    with pytest.raises(RebalanceAgain):
        await recovery._wait(asyncio.Event(), timeout=5)
    assert fatal(recovery).reasons == []


async def test_an_answer_in_time_goes_on(recovery: EngineRecovery) -> None:
    async def answer() -> Any:
        return "offsets"

    await recovery._wait(answer(), timeout=5)
    assert fatal(recovery).reasons == []

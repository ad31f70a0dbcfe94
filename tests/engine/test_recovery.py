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
from app.engine.api import LaneId
from app.engine.faust_app import new_faust_app
from app.engine.recovery import EngineRecovery
from app.engine.status import StandbyStatus
from app.engine.tables import EngineTables
from tests.engine.support import EngineRig, FakeFatal

C0, C1 = TP("veltrix-count-changelog", 0), TP("veltrix-count-changelog", 1)


class FakeConsumer:
    """Knows how far each partition has been read; raises for partitions that are not assigned."""

    def __init__(self) -> None:
        self.positions: dict[TP, int | None] = {}
        self.ends: dict[TP, int | None] = {}

    async def position(self, tp: TP) -> int | None:
        if tp not in self.positions:
            raise IllegalStateError(f"{tp} is not assigned")
        return self.positions[tp]

    async def highwaters(self, *tps: TP) -> dict[TP, int | None]:
        """Asked of the broker."""
        return {tp: self.ends[tp] for tp in tps}

    def highwater(self, tp: TP) -> int | None:
        """From the last fetch."""
        return self.ends.get(tp)


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


# -- standbys -----------------------------------------------------------------------------------------


@pytest.fixture
def following(recovery: EngineRecovery) -> EngineRecovery:
    """Recovered, with one active partition and one standby that is 40 records behind."""
    recovery.active_tps, recovery.standby_tps = {C0}, {C1}
    recovery.standby_offsets, recovery.standby_highwaters = Counter({C1: 59}), Counter({C1: 99})
    consumer(recovery).positions, consumer(recovery).ends = {C0: 100, C1: 60}, {C0: 100, C1: 100}
    return recovery


async def test_standbys_are_ready_when_they_have_read_what_was_there_at_the_start(following: EngineRecovery) -> None:
    await following._follow_standbys()
    assert not following.tables.standbys_ready
    consumer(following).positions[C1] = 100
    await following._follow_standbys()
    assert following.tables.standbys_ready


async def test_the_lag_of_a_standby_counts_from_its_position_to_the_end_known_by_the_last_fetch(following: EngineRecovery) -> None:
    assert following.standbys() == [StandbyStatus(LaneId("count", 1), 40)]
    consumer(following).positions[C1], consumer(following).ends[C1] = 100, 130
    await following._follow_standbys()
    assert following.standbys() == [StandbyStatus(LaneId("count", 1), 30)]


async def test_the_lag_is_unknown_before_the_first_fetch(following: EngineRecovery) -> None:
    consumer(following).ends[C1] = None
    assert following.standbys()[0].lag == -1
    consumer(following).ends[C1] = 100
    following.standby_offsets[C1] = None  # type: ignore[assignment] # what Faust puts there for a new store
    assert following.standbys()[0].lag == -1


async def test_a_standby_revoked_meanwhile_is_left_alone(following: EngineRecovery) -> None:
    del consumer(following).positions[C1]
    await following._follow_standbys()
    assert (following.standby_offsets[C1], following.tables.standbys_ready) == (59, False)


async def test_standbys_are_followed_while_the_worker_works_and_not_while_it_recovers(
    following: EngineRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHECK_S", 0)
    monkeypatch.setattr(module, "_STANDBY_S", 0)
    following.in_recovery, following.active_highwaters = True, Counter({C0: 1000})
    task = asyncio.ensure_future(following._slurp_changelogs.fun(following))
    consumer(following).positions[C1] = 80
    await asyncio.sleep(0.005)
    assert following.standby_offsets[C1] == 59
    following.in_recovery = False
    await asyncio.sleep(0.005)
    assert following.standby_offsets[C1] == 79
    following._stopped.set()
    await asyncio.wait_for(task, 1)


async def test_a_partition_that_is_no_standby_any_more_is_forgotten(
    following: EngineRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def assigned(*arguments: Any) -> None:
        following.standby_tps = set()

    monkeypatch.setattr("faust.tables.recovery.Recovery.on_rebalance", lambda self, *arguments: assigned())
    await following.on_rebalance({C0, C1}, set(), set(), 2)
    assert (following.standby_offsets, following.standby_highwaters, following.standbys()) == ({}, {}, [])


# -- a table that is ahead of its changelog -----------------------------------------------------------


@pytest.fixture
def refusals(recovery: EngineRecovery, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have ended the process; nothing is waited for."""
    monkeypatch.setattr(module, "_END_WAIT_S", 0)
    said = list[str]()
    recovery.tables.refuse = said.append  # type: ignore[attr-defined]
    return said


async def build(recovery: EngineRecovery, title: str) -> None:
    """As Faust calls it for both partitions."""
    destination = recovery.active_highwaters if title == "active" else recovery.standby_highwaters
    await recovery._build_highwaters(consumer(recovery), {C0, C1}, destination, title)


@pytest.mark.parametrize("title", ["active", "standby"])
async def test_a_changelog_that_ends_before_its_table_refuses(recovery: EngineRecovery, refusals: list[str], title: str) -> None:
    recovery.standby_offsets = Counter({C0: -1, C1: 49})
    consumer(recovery).ends = {C0: 0, C1: 49}
    await build(recovery, title)
    assert len(refusals) == 1
    assert f"{C1.topic}[1] ends at 49 but the table on disk holds it up to 49" in refusals[0]


async def test_a_changelog_that_ends_with_its_table_or_later_is_fine(recovery: EngineRecovery, refusals: list[str]) -> None:
    recovery.active_offsets[C0] = None  # type: ignore[assignment] # what Faust puts there for a new store
    consumer(recovery).ends = {C0: 0, C1: 50}
    await build(recovery, "active")
    assert (refusals, recovery.active_highwaters) == ([], {C0: -1, C1: 49})


async def test_an_end_that_a_new_leader_shows_late_is_waited_for(
    recovery: EngineRecovery, refusals: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def catch_up(seconds: float) -> None:
        consumer(recovery).ends[C1] = 50

    consumer(recovery).ends = {C0: 0, C1: 40}
    monkeypatch.setattr("app.engine.recovery.asyncio.sleep", catch_up)
    await build(recovery, "active")
    assert (refusals, recovery.active_highwaters[C1]) == ([], 49)


# -- waiting for the broker ---------------------------------------------------------------------------


async def test_a_broker_that_does_not_answer_ends_the_process(recovery: EngineRecovery) -> None:
    recovery.broker_wait_s = 0.0
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

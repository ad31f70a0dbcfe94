"""Which lanes run, where each begins to read, and what may be committed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.engine.api import Batch, Effects, LaneId
from app.engine.declare import AgentDeclaration
from app.engine.engine import SourcePosition
from app.engine.identity import SourceShrank
from app.engine.marker import MARKER_KEY, Marker, encode_marker
from app.engine.store import PartitionStore, StoreLocked
from app.settings import Settings
from tests.engine.support import COUNTS, SOURCE, EngineRig, agent, count, event, events, settle, small_options
from tests.fakes import FakeRecord, Produced

CHANGELOG = "veltrix-count-changelog"
TP = (SOURCE, 0)
Build = Callable[..., EngineRig]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """Builds engines over one data directory; closes them at the end."""
    rigs: list[EngineRig] = []

    def new(*agents: AgentDeclaration, **settings: Any) -> EngineRig:
        rigs.append(EngineRig.new(tmp_path, *agents, **settings))
        return rigs[-1]

    yield new
    for rig in rigs:
        await rig.shut()


def opened(rig: EngineRig, begin: int = 0, end: int = 1000, committed: int = -1) -> int:
    """Open the one lane; returns where it begins to read."""
    return rig.engine.open_lanes({TP: SourcePosition(begin, end, committed)}, {})[TP]


def applied(rig: EngineRig, next_offset: int, committed: int = -1) -> None:
    """As if a lane had applied everything below ``next_offset`` when the group had committed ``committed``."""
    marker = Marker({SOURCE: next_offset}, {SOURCE: committed} if committed >= 0 else {}, next_offset, next_offset)
    rig.engine.open_store(CHANGELOG, 0).apply({MARKER_KEY: encode_marker(marker)}, 10)
    rig.delivery.logs[CHANGELOG, 0] = [Produced(offset, 0, None, None, ()) for offset in range(11)]


# -- where to begin -----------------------------------------------------------------------------------


async def test_without_commit_and_marker_a_lane_begins_at_the_beginning(build: Build) -> None:
    assert opened(build(), begin=17) == 17


async def test_a_commit_behind_the_marker_is_only_a_hint(build: Build) -> None:
    rig = build()
    applied(rig, 50, committed=30)
    with capture_logs() as logs:
        assert opened(rig, committed=40) == 50
    assert logs == []


async def test_a_group_that_lost_its_commits_goes_on_at_the_marker(build: Build) -> None:
    rig = build()
    applied(rig, 50, committed=30)
    with capture_logs() as logs:
        assert opened(rig) == 50
    assert logs == []


async def test_a_commit_ahead_of_the_marker_is_followed(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    assert opened(rig, committed=80) == 80


async def test_records_below_the_begin_are_skipped_even_if_they_are_fetched(build: Build) -> None:
    rig = build()
    applied(rig, 3)
    opened(rig)
    rig.engine.submit(SOURCE, 0, events(0, 5))
    await rig.acknowledge_all()
    assert rig.observer.units[0].records == 2


async def test_a_rewind_is_ignored_and_the_log_names_the_command(build: Build) -> None:
    rig = build()
    applied(rig, 50, committed=30)
    with capture_logs() as logs:
        assert opened(rig, committed=0) == 50
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("rewind_ignored", "warning")
    assert (entry["topic"], entry["partition"], entry["committed"], entry["applied"]) == (SOURCE, 0, 0, 50)
    assert "veltrix reset" in entry["hint"]


async def test_a_rewind_to_the_start_is_noticed_although_the_marker_knows_of_no_commit(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    with capture_logs() as logs:
        assert opened(rig, committed=0) == 50
    assert [entry["event"] for entry in logs] == ["rewind_ignored"]


async def test_commits_that_a_crash_left_behind_are_no_rewind(build: Build) -> None:
    rig = build()
    applied(rig, 50, committed=30)
    with capture_logs() as logs:
        assert opened(rig, committed=30) == 50
    assert logs == []


async def test_a_source_that_ends_before_what_is_applied_was_recreated(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    with pytest.raises(SourceShrank, match="veltrix reset --to-earliest") as caught:
        opened(rig, end=49)
    assert "ends at 49 but offsets up to 50" in str(caught.value)
    assert caught.value.topic == SOURCE
    assert rig.engine.lanes == {}


async def test_a_source_that_ends_where_the_table_ends_is_fine(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    assert opened(rig, end=50) == 50


async def test_records_deleted_before_they_were_read_are_an_error_in_the_log(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    with capture_logs() as logs:
        assert opened(rig, begin=70) == 70
    (entry,) = logs
    assert (entry["event"], entry["log_level"], entry["lost_from"], entry["lost_to"]) == ("source_truncated", "error", 50, 69)


# -- commit -------------------------------------------------------------------------------------------


async def test_nothing_is_committable_before_a_unit_is_durable(build: Build) -> None:
    rig = build()
    opened(rig)
    rig.engine.submit(SOURCE, 0, events(0, 5))
    await settle()
    assert rig.engine.committable() == {}
    await rig.acknowledge_all()
    assert rig.engine.committable() == {TP: 5}


async def test_closing_gives_what_the_finished_units_allow_and_ends_the_lanes(build: Build) -> None:
    rig = build()
    opened(rig)
    rig.delivery.acknowledge = True
    rig.engine.submit(SOURCE, 0, events(0, 5))
    await settle()
    assert await rig.engine.close_lanes() == {TP: 5}
    assert (rig.engine.lanes, rig.engine.committable(), rig.fatal.reasons) == ({}, {}, [])
    assert rig.listener.stopped == [LaneId("count", 0)]
    assert await rig.engine.close_lanes() == {}


async def test_a_lane_never_commits_below_where_it_began(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    opened(rig, committed=80)
    assert rig.engine.committable() == {}
    rig.engine.submit(SOURCE, 0, events(80, 82))
    await rig.acknowledge_all()
    assert await rig.engine.close_lanes() == {TP: 82}


async def test_nothing_is_committable_below_a_truncation_until_something_above_is_applied(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    opened(rig, begin=70)
    assert rig.engine.committable() == {}
    rig.engine.submit(SOURCE, 0, events(70, 72))
    await rig.acknowledge_all()
    assert rig.engine.committable() == {TP: 72}


async def test_what_is_applied_but_was_never_committed_is_committable_at_once(build: Build) -> None:
    rig = build()
    applied(rig, 50)
    opened(rig, committed=30)
    assert rig.engine.committable() == {TP: 50}
    rig.engine.committed({TP: 50}, 0.01, ok=True)
    assert rig.engine.committable() == {}


async def test_what_the_group_committed_goes_into_the_next_marker(build: Build) -> None:
    rig = build()
    opened(rig)
    rig.delivery.acknowledge = True
    rig.engine.submit(SOURCE, 0, events(0, 5))
    await settle()
    rig.engine.committed({TP: 5}, 0.01, ok=True)
    rig.engine.committed({TP: 99}, 0.01, ok=False)
    rig.engine.committed({("elsewhere", 0): 7, (SOURCE, 9): 7}, 0.01, ok=True)
    rig.engine.submit(SOURCE, 0, events(5, 6))
    await settle()
    assert rig.engine.open_store(CHANGELOG, 0).marker().committed == {SOURCE: 5}
    assert rig.observer.commits == [True, False, True]


async def test_a_reopened_lane_goes_on_where_the_last_one_stopped(build: Build) -> None:
    rig = build()
    rig.delivery.acknowledge = True
    opened(rig)
    rig.engine.submit(SOURCE, 0, events(0, 5))
    await settle()
    await rig.engine.close_lanes()
    assert opened(rig, committed=5) == 5
    rig.engine.submit(SOURCE, 0, events(3, 8))
    await settle()
    assert rig.engine.open_store(CHANGELOG, 0).get(COUNTS.raw_key("u")) == b"8"


# -- lanes and stores ---------------------------------------------------------------------------------


async def test_records_without_a_lane_are_dropped(build: Build) -> None:
    rig = build()
    opened(rig)
    rig.engine.submit(SOURCE, 7, events(0, 5))
    await settle()
    assert rig.delivery.outputs == []


async def test_setup_runs_once_and_every_lane_gets_its_result(build: Build) -> None:
    made, seen = list[str](), list[Any]()

    def setup(settings: Settings) -> str:
        made.append(settings.app_id)
        return "rules"

    async def body(batch: Batch[str]) -> Effects:
        seen.append((batch.lane.partition, batch.context))
        return await count(batch)

    rig = build(agent(body, setup=setup))
    rig.engine.open_lanes({(SOURCE, n): SourcePosition(0, 9, -1) for n in range(2)}, {})
    for partition in range(2):
        rig.engine.submit(SOURCE, partition, [event(0)])
    await rig.acknowledge_all()
    assert (made, seen) == (["veltrix"], [(0, "rules"), (1, "rules")])


async def test_a_full_lane_pauses_its_own_partition_only(build: Build) -> None:
    rig = build(lane_high_water=2, lane_low_water=1)
    calls: list[Any] = []
    rig.engine.set_paused = lambda tp, paused: calls.append((tp, paused))
    rig.engine.open_lanes({(SOURCE, n): SourcePosition(0, 9, -1) for n in range(2)}, {})
    rig.engine.submit(SOURCE, 1, events(0, 3))
    assert calls == [((SOURCE, 1), True)]


async def test_restored_records_reach_the_open_store_only(build: Build) -> None:
    rig = build()
    store = rig.engine.open_store(CHANGELOG, 0)
    records = [FakeRecord(b"5", b"cu", 40)]
    rig.engine.restore(CHANGELOG, 0, records, 41)
    rig.engine.restore(CHANGELOG, 1, records, 41)  # given away meanwhile
    rig.engine.restore(CHANGELOG, 0, [], 99)
    assert (store.get(b"cu"), store.changelog_offset()) == (b"5", 40)
    assert rig.observer.restores == [(LaneId("count", 0), 1, 3)]
    assert list(rig.engine.stores) == [(CHANGELOG, 0)]


async def test_a_store_is_opened_once_and_its_lock_is_free_after_closing(build: Build, tmp_path: Path) -> None:
    rig = build()
    store = rig.engine.open_store(CHANGELOG, 0)
    assert rig.engine.open_store(CHANGELOG, 0) is store
    assert store.path == tmp_path / "tables" / "count-0.db"
    with pytest.raises(StoreLocked):
        PartitionStore(store.path, small_options())
    rig.engine.close_store(CHANGELOG, 0)
    rig.engine.close_store(CHANGELOG, 0)
    PartitionStore(store.path, small_options()).close()


async def test_the_listener_reads_the_durable_table_of_each_lane(build: Build) -> None:
    rig = build()
    opened(rig)
    (table,) = rig.listener.started
    assert (table.lane, table.changelog_topic, table.changelog_offset()) == (LaneId("count", 0), CHANGELOG, -1)
    rig.engine.submit(SOURCE, 0, events(0, 2))
    await settle()
    assert table.scan(b"c", b"", 10) == []
    await rig.acknowledge_all()
    assert (table.scan(b"c", b"", 10), table.changelog_offset()) == ([(b"cu", b"2")], 1)

"""What Faust sees of a table: where each partition stands, and nothing to read or write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from faust.types import TP

from app.engine.api import RESET_KEY
from app.engine.faust_app import new_faust_app
from app.engine.marker import CHANGELOG_ID_KEY, MARKER_KEY, SOURCE_IDS_KEY, Marker, decode_topic_ids, encode_marker
from app.engine.tables import EngineStore, EngineTable, EngineTables, TableIsTheEngines
from tests.engine.support import SOURCE, EngineRig
from tests.fakes import FakeRecord

CHANGELOG = "veltrix-count-changelog"


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[EngineRig]:
    """An engine with the agent ``count``."""
    made = EngineRig.new(tmp_path)
    yield made
    await made.shut()


@pytest.fixture
def table(rig: EngineRig) -> EngineTable:
    """Its Faust table."""
    app = new_faust_app(rig.settings, None)
    app.engine, app.fatal = rig.engine, rig.fatal
    app.bind(rig.agents, 10)
    return app.tables["count"]  # type: ignore[return-value]


@pytest.fixture
def data(table: EngineTable) -> EngineStore:
    """The store behind it."""
    found = table.data
    assert isinstance(found, EngineStore)
    return found


def tps(*partitions: int) -> set[TP]:
    """Changelog partitions, and one of another topic."""
    return {TP(CHANGELOG, partition) for partition in partitions} | {TP("interactions", 9)}


async def rebalance(data: EngineStore, assigned: set[TP], revoked: set[TP]) -> None:
    """As Faust calls it."""
    await data.on_rebalance(assigned, revoked, assigned)


async def test_agent_and_table_are_bound_under_one_name_with_the_agreed_changelog(table: EngineTable, rig: EngineRig) -> None:
    assert list(table.app.agents) == ["count"]
    assert table.changelog_topic.get_topic_name() == CHANGELOG
    assert table.changelog_topic.partitions == 10
    assert set(rig.engine.changelogs) == {CHANGELOG}


async def test_a_rebalance_opens_what_came_and_closes_what_went(data: EngineStore, rig: EngineRig) -> None:
    await rebalance(data, tps(0, 1), tps())
    assert sorted(rig.engine.stores) == [(CHANGELOG, 0), (CHANGELOG, 1)]
    kept = rig.engine.stores[CHANGELOG, 1]
    await rebalance(data, tps(1, 2), tps(0))
    assert sorted(rig.engine.stores) == [(CHANGELOG, 1), (CHANGELOG, 2)]
    assert rig.engine.stores[CHANGELOG, 1] is kept


async def test_a_partition_that_goes_and_comes_back_is_opened_anew(data: EngineStore, rig: EngineRig) -> None:
    await rebalance(data, tps(0), tps())
    rig.engine.stores[CHANGELOG, 0].apply({b"a": b"1"}, 5)
    await rebalance(data, tps(0), tps(0))
    assert data.persisted_offset(TP(CHANGELOG, 0)) == 5


async def test_the_persisted_offset_is_what_rocksdb_contains(data: EngineStore, rig: EngineRig) -> None:
    assert data.persisted_offset(TP(CHANGELOG, 3)) is None
    rig.engine.open_store(CHANGELOG, 3).apply({b"a": b"1"}, 0)
    assert data.persisted_offset(TP(CHANGELOG, 3)) == 0


async def test_stopping_releases_every_lock(data: EngineStore, rig: EngineRig) -> None:
    await rebalance(data, tps(0, 1), tps())
    await data.on_stop()
    assert rig.engine.stores == {}


async def test_faust_never_gets_changelog_events_to_apply(data: EngineStore) -> None:
    data.apply_changelog_batch([], bytes, bytes)
    with pytest.raises(TableIsTheEngines):
        data.apply_changelog_batch([object()], bytes, bytes)


async def test_a_table_cannot_be_used_behind_the_engines_back(data: EngineStore) -> None:
    def write() -> None:
        data[b"k"] = b"v"

    def delete() -> None:
        del data[b"k"]

    uses: list[Any] = [lambda: data[b"k"], write, delete, lambda: list(data), lambda: data.restore_backup(0)]
    for use in uses:
        with pytest.raises(TableIsTheEngines):
            use()
    with pytest.raises(TableIsTheEngines):
        await data.backup_partition(0)


async def test_its_length_is_an_estimate_over_all_partitions(data: EngineStore, rig: EngineRig) -> None:
    for partition in range(2):
        rig.engine.open_store(CHANGELOG, partition).apply({b"k%d" % n: b"" for n in range(10)}, 0)
    assert 20 <= len(data) <= 24


# -- whose topics these are ---------------------------------------------------------------------------

OLD, NEW = bytes(range(16)), bytes(range(16, 32))


@pytest.fixture
def refusals(table: EngineTable) -> list[str]:
    """What would have ended the process."""
    said = list[str]()
    tables(table).refuse = said.append
    return said


def tables(table: EngineTable) -> EngineTables:
    """The manager of the table."""
    return table.app.tables  # type: ignore[return-value]


async def test_a_recreated_changelog_refuses_actives_and_standbys_alike(
    data: EngineStore, table: EngineTable, refusals: list[str]
) -> None:
    tables(table).topic_ids = {CHANGELOG: OLD}
    await rebalance(data, tps(0, 1), tps())
    assert refusals == []
    tables(table).topic_ids = {CHANGELOG: NEW}
    await rebalance(data, tps(0, 1), tps())
    assert [f"{CHANGELOG}[{partition}] was re-created" in refusals[partition] for partition in (0, 1)] == [True, True]


async def test_a_recreated_source_refuses_once_the_table_is_restored(
    data: EngineStore, table: EngineTable, rig: EngineRig, refusals: list[str]
) -> None:
    marker = encode_marker(Marker({SOURCE: 5}))
    rig.engine.open_store(CHANGELOG, 0).apply({MARKER_KEY: marker}, 0)
    for topic_id in (OLD, OLD, NEW):
        assert refusals == []
        tables(table).topic_ids = {SOURCE: topic_id}
        await data.on_recovery_completed(tps(0), tps(1))
    assert len(refusals) == 1
    assert f"{SOURCE}[0] was re-created" in refusals[0]
    assert (CHANGELOG, 1) not in rig.engine.stores, "a standby applies no source"


async def test_without_ids_nothing_is_stamped_and_nothing_refused(data: EngineStore, rig: EngineRig, refusals: list[str]) -> None:
    await rebalance(data, tps(0), tps())
    await data.on_recovery_completed(tps(0), tps())
    store = rig.engine.stores[CHANGELOG, 0]
    assert (refusals, store.get(CHANGELOG_ID_KEY), store.get(SOURCE_IDS_KEY)) == ([], None, None)


async def test_a_table_wiped_by_a_reset_during_recovery_is_stamped_again(
    data: EngineStore, table: EngineTable, rig: EngineRig, refusals: list[str]
) -> None:
    tables(table).topic_ids = {CHANGELOG: OLD, SOURCE: OLD}
    await rebalance(data, tps(0), tps())
    rig.engine.restore(CHANGELOG, 0, [FakeRecord(b"epoch", RESET_KEY, 4)], 5)
    await data.on_recovery_completed(tps(0), tps())
    store = rig.engine.stores[CHANGELOG, 0]
    assert (store.get(CHANGELOG_ID_KEY), decode_topic_ids(store.get(SOURCE_IDS_KEY))) == (OLD, {SOURCE: OLD})
    assert (store.changelog_offset(), refusals) == (4, [])

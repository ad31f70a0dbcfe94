"""``veltrix doctor`` and the tables on disk: what a worker would refuse is found before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from app.cli.doctor_state import Cluster, check_tables, compare_tables
from app.engine.local_tables import LocalTable
from app.settings import Settings
from app.topics import INTERACTIONS, changelog_of

AGENT, APP = "process_interactions", "veltrix"
CHANGELOG = changelog_of(APP, AGENT)
OLD, NEW = bytes(range(16)), bytes(range(16, 32))
TABLE = LocalTable(AGENT, 1, 99, {INTERACTIONS: 50}, OLD, {INTERACTIONS: OLD})
CLUSTER = Cluster({CHANGELOG: OLD, INTERACTIONS: OLD}, {(CHANGELOG, 1): 100, (INTERACTIONS, 1): 50})


async def test_an_empty_data_directory_needs_no_broker(tmp_path: Path) -> None:
    (tmp_path / "tables" / "not-ours-1.db").mkdir(parents=True)

    (check,) = await check_tables(Settings(data_dir=tmp_path, kafka_bootstrap="127.0.0.1:1"))

    assert (check.status, "restores them" in check.detail) == ("ok", True)


def test_tables_of_this_cluster_have_no_findings() -> None:
    assert compare_tables([TABLE], CLUSTER, APP) == []
    never_stamped = replace(TABLE, changelog_id=None, source_ids={})
    assert compare_tables([never_stamped], CLUSTER, APP) == []
    assert compare_tables([TABLE], Cluster({}, {}), APP) == [], "missing topics are another check's"


@pytest.mark.parametrize(
    ("cluster", "fact", "cure"),
    [
        (replace(CLUSTER, ids={CHANGELOG: NEW, INTERACTIONS: OLD}), "changelog[1] was re-created", "delete the workers' data"),
        (
            replace(CLUSTER, ids={CHANGELOG: OLD, INTERACTIONS: NEW}),
            "interactions[1] was re-created",
            "veltrix reset --to-earliest",
        ),
        (replace(CLUSTER, ends={(CHANGELOG, 1): 99}), "ends at 99 but the table on disk holds it up to 99", "delete the workers'"),
        (replace(CLUSTER, ends={(INTERACTIONS, 1): 49}), "ends at 49 but offsets up to 50 are applied", "veltrix reset"),
    ],
)
def test_each_way_not_to_belong_has_its_cure(cluster: Cluster, fact: str, cure: str) -> None:
    (check,) = compare_tables([TABLE], cluster, APP)

    assert check.status == "fail"
    assert fact in check.detail
    assert cure in check.advice


@pytest.mark.parametrize(
    "cluster", [replace(CLUSTER, ids={CHANGELOG: OLD, INTERACTIONS: NEW}), replace(CLUSTER, ends={(INTERACTIONS, 1): 49})]
)
def test_a_table_that_a_reset_will_wipe_has_no_sources_to_answer_for(cluster: Cluster) -> None:
    assert compare_tables([TABLE], replace(cluster, reset=frozenset({(CHANGELOG, 1)})), APP) == []
    assert compare_tables([TABLE], replace(cluster, reset=frozenset({(CHANGELOG, 0)})), APP) != []


async def test_a_broken_table_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "tables" / f"{AGENT}-2.db"
    folder.mkdir(parents=True)
    (folder / "CURRENT").write_text("nonsense")

    (check,) = await check_tables(Settings(data_dir=tmp_path, kafka_bootstrap="127.0.0.1:1"))

    assert (check.status, str(folder) in check.detail, "delete this directory" in check.advice) == ("fail", True, True)

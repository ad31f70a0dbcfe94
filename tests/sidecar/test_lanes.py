"""The ledger and the lanes, as the engine tells them."""

from __future__ import annotations

from app.engine.status import Ledger
from tests.sidecar.conftest import Sidecar
from tests.telemetry.fakes import AGENT, lane


async def test_the_ledger_lists_each_lane_and_their_sum(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = [
        lane(3, ledger=Ledger(10, 5, 2, 1, 1, 1)),
        lane(1, ledger=Ledger(100, 90, 4, 3, 2, 1)),
    ]

    body = (await sidecar.get("/api/v1/ledger")).json()

    assert [row["partition"] for row in body["lanes"]] == [1, 3]
    assert body["lanes"][1] == {
        "agent": AGENT,
        "partition": 3,
        "topic": "interactions",
        "consumed": 10,
        "emitted": 5,
        "duplicates": 2,
        "dead_lettered": 1,
        "retried": 1,
        "dropped": 1,
        "residue": 0,
    }
    expected = {"consumed": 110, "emitted": 95, "duplicates": 6, "dead_lettered": 4, "retried": 3, "dropped": 2, "residue": 0}
    assert body["total"] == expected


async def test_a_lost_record_shows_as_residue(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = [lane(0, ledger=Ledger(consumed=10, emitted=9)), lane(1, ledger=Ledger())]

    body = (await sidecar.get("/api/v1/ledger")).json()

    assert body["total"]["residue"] == 1
    assert [row["residue"] for row in body["lanes"]] == [1, 0]


async def test_a_worker_without_partitions_has_an_empty_ledger(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = []

    body = (await sidecar.get("/api/v1/ledger")).json()

    assert body["lanes"] == []
    assert set(body["total"].values()) == {0}


async def test_lanes_show_position_and_lag(sidecar: Sidecar) -> None:
    body = (await sidecar.get("/api/v1/lanes")).json()

    assert body["phase"] == "running"
    assert body["lanes"][0] == {
        "agent": AGENT,
        "partition": 0,
        "topic": "interactions",
        "lag": 5,
        "next_offset": 95,
        "committed_offset": 90,
        "end_offset": 100,
        "changelog_offset": 200,
        "queued_records": 3,
        "units_in_flight": 1,
        "paused": False,
        "seconds_since_progress": 0.1,
        "seconds_since_commit": 0.2,
        "state_keys": 42,
    }


async def test_what_is_unknown_is_null(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = [lane(0, end_offset=-1, committed_offset=-1, changelog_offset=-1, seconds_since_commit=float("inf"))]

    (row,) = (await sidecar.get("/api/v1/lanes")).json()["lanes"]

    assert [row[name] for name in ("lag", "end_offset", "committed_offset", "changelog_offset", "seconds_since_commit")] == [
        None
    ] * 5

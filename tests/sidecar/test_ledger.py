"""The loss ledger: counts per lane, positions per source topic, and a residue that cannot hide."""

from __future__ import annotations

import pytest

from app.engine.status import Ledger
from tests.sidecar.conftest import Sidecar
from tests.telemetry.fakes import AGENT, lane

RETRY = "retry.veltrix.interactions.5s"


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
        "sources": [{"topic": "interactions", "next_offset": 95}],
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


async def test_topics_of_one_lane_share_its_counts_and_are_counted_once(sidecar: Sidecar) -> None:
    counts = Ledger(10, 8, 1, 1)
    sidecar.engine.statuses = [lane(0, topic=RETRY, next_offset=-1, ledger=counts), lane(0, ledger=counts)]

    body = (await sidecar.get("/api/v1/ledger")).json()

    assert body["total"]["consumed"] == 10
    (row,) = body["lanes"]
    assert row["sources"] == [{"topic": "interactions", "next_offset": 95}, {"topic": RETRY, "next_offset": None}]


@pytest.mark.parametrize("outcome", ["emitted", "duplicates", "dead_lettered", "retried", "dropped"])
async def test_each_outcome_counts_against_the_residue(sidecar: Sidecar, outcome: str) -> None:
    sidecar.engine.statuses = [
        lane(0, ledger=Ledger(consumed=3, **{outcome: 3})),
        lane(1, ledger=Ledger(consumed=3, **{outcome: 4})),
    ]

    body = (await sidecar.get("/api/v1/ledger")).json()

    assert [row["residue"] for row in body["lanes"]] == [0, -1]
    assert body["total"]["residue"] == -1


async def test_the_answer_is_described(sidecar: Sidecar) -> None:
    schemas = (await sidecar.get("/openapi.json")).json()["components"]["schemas"]

    assert set(schemas["LaneLedger"]["required"]) == {
        "agent", "partition", "sources", "consumed", "emitted", "duplicates", "dead_lettered", "retried", "dropped", "residue",
    }  # fmt: skip

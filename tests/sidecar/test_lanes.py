"""The lanes, as the engine tells them."""

from __future__ import annotations

from app.engine.status import BreakerStatus, HeldKey, HeldKeys
from tests.sidecar.conftest import Sidecar
from tests.telemetry.fakes import AGENT, lane


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
        "held_by": None,
        "breaker": {"state": "closed", "openings": 0, "retry_in_s": 0.0, "events": 0, "dead_letters": 0},
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


async def test_a_lane_says_that_its_breaker_holds_it_and_for_how_long(sidecar: Sidecar) -> None:
    sidecar.engine.statuses = [lane(0, breaker=BreakerStatus("open", 2, 31.5, 250, 200))]

    (row,) = (await sidecar.get("/api/v1/lanes")).json()["lanes"]

    assert row["held_by"] == "breaker"
    assert row["breaker"] == {"state": "open", "openings": 2, "retry_in_s": 31.5, "events": 250, "dead_letters": 200}


async def test_held_keys_name_the_failed_event_of_each_the_one_held_longest_first(sidecar: Sidecar) -> None:
    recent, old = HeldKeys(2, 5, (HeldKey(17, 1_700_000_000_000, 5),)), HeldKeys(1, 3, (HeldKey(4, 1_600_000_000_000, 3),))
    sidecar.engine.statuses = [lane(0, held=recent), lane(0, topic="retry.1", is_tier=True, held=recent), lane(1, held=old)]

    assert (await sidecar.get("/api/v1/held-keys")).json() == {
        "keys": 3,
        "waiting": 8,
        "oldest": [
            {"agent": AGENT, "event": "interactions:1:4", "since": "2020-09-13T12:26:40.000Z", "waiting": 3},
            {"agent": AGENT, "event": "interactions:0:17", "since": "2023-11-14T22:13:20.000Z", "waiting": 5},
        ],
    }

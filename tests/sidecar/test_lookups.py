"""Lookups over HTTP: the value, how fresh it is, and an honest no when nobody can tell."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from app.domain.trending import Trending
from app.lookups.api import InvalidLookupKey, LookupAnswer, LookupUnavailable, UnknownLookup
from tests.sidecar.conftest import Sidecar, assert_problem

NOW_MS = time.time_ns() // 1_000_000
ANSWER = LookupAnswer(
    resource="users",
    key="u:42",
    value={"sequence": 7, "counts": {"Product Viewed": 7}, "last_seen_ms": 1_699_999_999_000},
    raw=b"\x01",
    source="redis",
    partition=3,
    changelog_offset=1000,
    source_offset=500,
    covered_offset=1010,
    covered_at_ms=NOW_MS,
    covered_source_offset=505,
)


async def test_a_value_comes_with_its_freshness(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER

    before_ms = time.time_ns() // 1_000_000
    answer = await sidecar.get("/api/v1/lookups/users/u:42")
    after_ms = time.time_ns() // 1_000_000

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "key": "u:42",
        "value": {"sequence": 7, "counts": {"Product Viewed": 7}, "last_seen_ms": 1_699_999_999_000, "session": None},
        "freshness": {
            "source": "redis",
            "partition": 3,
            "changelog_offset": 1000,
            "source_offset": 500,
            "covered_offset": 1010,
            "covered_source_offset": 505,
            "covered_at_ms": NOW_MS,
            "event_time_ms": 1_699_999_999_000,
            "staleness_ms": answer.json()["freshness"]["staleness_ms"],
        },
    }
    assert before_ms - NOW_MS <= answer.json()["freshness"]["staleness_ms"] <= after_ms - NOW_MS


async def test_an_answer_from_the_table_says_so(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = replace(ANSWER, source="table", source_offset=-1, covered_at_ms=None)

    freshness = (await sidecar.get("/api/v1/lookups/users/u:42")).json()["freshness"]

    assert freshness["source"] == "table"
    assert freshness["source_offset"] is freshness["covered_at_ms"] is None


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("42", "u:42"),
        ("u:42", "u:42"),
        ("a:42", "a:42"),
        ("x:42", "u:x:42"),
        ("u:u:42", "u:u:42"),
        ("a%2Fb", "u:a/b"),
        ("a/b", "u:a/b"),
        ("%C3%A4%20%F0%9F%90%8D", "u:ä 🐍"),
    ],
)
async def test_an_id_without_a_kind_is_a_user_id(sidecar: Sidecar, path: str, key: str) -> None:
    await sidecar.get(f"/api/v1/lookups/users/{path}")

    assert sidecar.lookups.asked == [("users", key)]


async def test_an_unknown_key_is_a_404(sidecar: Sidecar) -> None:
    body = assert_problem(await sidecar.get("/api/v1/lookups/users/43"), 404, "unknown-key")

    assert body["key"] == "u:43"


async def test_an_unknown_resource_is_a_404_that_names_the_known_ones(sidecar: Sidecar) -> None:
    sidecar.lookups.failure = UnknownLookup("itmes", ["items", "users"])

    body = assert_problem(await sidecar.get("/api/v1/lookups/itmes/1"), 404, "unknown-lookup")
    assert "items, users" in body["detail"]


async def test_an_invalid_key_is_a_422(sidecar: Sidecar) -> None:
    sidecar.lookups.failure = InvalidLookupKey("u:")

    assert_problem(await sidecar.get("/api/v1/lookups/users/u:"), 422, "invalid-request")


async def test_an_id_of_absurd_length_is_refused_unread(sidecar: Sidecar) -> None:
    assert_problem(await sidecar.get(f"/api/v1/lookups/users/{'x' * 1025}"), 422, "invalid-request")

    assert sidecar.lookups.asked == []


@pytest.mark.parametrize("reason", ["redis_down", "not_covered", "not_configured"])
async def test_a_lookup_that_nobody_here_can_answer_is_a_503(sidecar: Sidecar, reason: str) -> None:
    sidecar.lookups.failure = LookupUnavailable(reason, 3)  # type: ignore[arg-type]

    answer = await sidecar.get("/api/v1/lookups/users/42")

    body = assert_problem(answer, 503, "lookup-unavailable")
    assert (body["reason"], body["partition"]) == (reason, 3)
    assert answer.headers["retry-after"] == "1"


async def test_the_server_adds_little_to_a_lookup(sidecar: Sidecar) -> None:
    """Goal 2 ms with Redis, at the server; this is all but Redis, and ten times that is a mistake."""
    sidecar.lookups.answers["users", "u:42"] = ANSWER

    best = 1.0
    for _ in range(10):
        start = time.perf_counter()
        await sidecar.get("/api/v1/lookups/users/u:42")
        best = min(best, time.perf_counter() - start)

    assert best < 0.02


# -- sessions, items, many users ----------------------------------------------------------------------


async def test_a_user_comes_with_the_session_that_is_open(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER
    sidecar.lookups.answers["sessions", "u:42"] = replace(ANSWER, resource="sessions", value={"events": 3})
    assert (await sidecar.get("/api/v1/lookups/users/42")).json()["value"]["session"] == {"events": 3}


async def test_an_item_is_asked_for_by_its_id_as_it_is(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["items", "p1"] = replace(ANSWER, resource="items", key="p1", value={"item_1m": []})
    answer = await sidecar.get("/api/v1/lookups/items/p1")
    assert answer.json()["value"] == {"item_1m": []}
    assert sidecar.lookups.asked == [("items", "p1")]


async def test_many_users_come_in_order_and_the_others_are_named(sidecar: Sidecar) -> None:
    for user in ("u:1", "a:2"):
        sidecar.lookups.answers["users", user] = replace(ANSWER, key=user)
    answer = await sidecar.post("/api/v1/lookups/users:batch", {"ids": ["a:2", "nobody", "1"]})
    body = answer.json()
    assert ([user["key"] for user in body["users"]], body["unknown"], body["unavailable"]) == (["a:2", "u:1"], ["u:nobody"], [])


async def test_each_of_many_users_is_answered_as_if_it_had_been_asked_for_alone(sidecar: Sidecar) -> None:
    for user in ("u:1", "u:2", "u:3"):
        sidecar.lookups.answers["users", user] = replace(ANSWER, key=user, source="table", covered_at_ms=None)
    sidecar.lookups.answers["sessions", "u:2"] = replace(ANSWER, resource="sessions", value={"events": 3})
    sidecar.lookups.answers["sessions", "u:3"] = LookupUnavailable("redis_down", 3)

    body = (await sidecar.post("/api/v1/lookups/users:batch", {"ids": ["1", "2", "3"]})).json()

    assert [user["value"]["session"] for user in body["users"]] == [None, {"events": 3}, None]
    alone = [(await sidecar.get(f"/api/v1/lookups/users/{n}")).json() for n in (1, 2, 3)]
    assert body["users"] == alone


@pytest.mark.parametrize("ids", [[], ["x"] * 501, [""]], ids=["none", "too many", "empty"])
async def test_a_batch_has_1_to_500_ids(sidecar: Sidecar, ids: list[str]) -> None:
    assert_problem(await sidecar.post("/api/v1/lookups/users:batch", {"ids": ids}), 422, "invalid-request")


# -- what the caller has, and what it knows of -----------------------------------------------------------


async def test_a_caller_who_has_the_answer_gets_none(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER
    first = await sidecar.get("/api/v1/lookups/users/42")
    again = await sidecar.get("/api/v1/lookups/users/42", {"if-none-match": f'W/{first.headers["etag"]}, "x"'})
    assert (again.status_code, again.content) == (304, b"")
    sidecar.lookups.answers["users", "u:42"] = replace(ANSWER, changelog_offset=1001)
    assert (await sidecar.get("/api/v1/lookups/users/42", {"if-none-match": first.headers["etag"]})).status_code == 200


async def test_a_caller_reads_its_own_write_once_it_is_there(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER
    assert (await sidecar.get("/api/v1/lookups/users/42?min_offset=3:505&wait_ms=0")).status_code == 200

    async def write() -> None:
        await asyncio.sleep(0.1)
        sidecar.lookups.answers["users", "u:42"] = replace(ANSWER, covered_source_offset=600)

    writing = asyncio.create_task(write())
    assert (await sidecar.get("/api/v1/lookups/users/42?min_offset=3:600")).status_code == 200
    await writing


async def test_a_write_that_is_not_there_in_time_is_a_409_that_says_how_far_it_is(sidecar: Sidecar) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER
    body = assert_problem(await sidecar.get("/api/v1/lookups/users/42?min_offset=3:506&wait_ms=30"), 409, "not-yet")
    assert (body["partition"], body["wanted"], body["covered"]) == (3, 506, 505)
    assert_problem(await sidecar.get("/api/v1/lookups/users/nobody?min_offset=3:1&wait_ms=0"), 409, "not-yet")


@pytest.mark.parametrize("text", ["3", "3:", ":4", "a:1", "3:-1", "4:1"])
async def test_an_offset_that_cannot_be_meant_is_a_422(sidecar: Sidecar, text: str) -> None:
    sidecar.lookups.answers["users", "u:42"] = ANSWER
    assert_problem(await sidecar.get(f"/api/v1/lookups/users/42?min_offset={text}&wait_ms=0"), 422, "invalid-request")


# -- of all partitions together --------------------------------------------------------------------------


def part(partition: int, value: object) -> LookupAnswer:
    return replace(ANSWER, partition=partition, value=value)


async def test_totals_are_those_of_all_partitions(sidecar: Sidecar) -> None:
    gone = LookupUnavailable("not_covered", 2)
    sidecar.lookups.partitions["totals", "all"] = [part(0, {"a": 1, "b": 2}), part(1, {"b": 3}), gone, None]
    assert (await sidecar.get("/api/v1/lookups/totals")).json() == {
        "totals": {"a": 1, "b": 5},
        "partial": True,
        "missing_partitions": [2],
    }


@pytest.mark.parametrize("window", ["5m", "item_5m"])
async def test_the_leaders_are_those_of_the_newest_windows_of_any_partition(sidecar: Sidecar, window: str) -> None:
    old, new, other = (
        Trending(1, start, start + 300, leaders) for start, leaders in ((0, [("z", 9)]), (60, [("a", 2)]), (60, [("b", 5)]))
    )
    sidecar.lookups.partitions["trending", "item_5m"] = [part(0, old), part(1, new), part(2, other)]
    body = (await sidecar.get(f"/api/v1/lookups/trending?window={window}&limit=1")).json()
    assert (body["start_ms"], body["end_ms"], body["items"], body["partial"]) == (60, 360, [{"key": "b", "score": 5}], False)


async def test_without_any_window_closed_nobody_leads(sidecar: Sidecar) -> None:
    sidecar.lookups.partitions["trending", "item_5m"] = [None, None]
    body = (await sidecar.get("/api/v1/lookups/trending")).json()
    assert (body["start_ms"], body["items"]) == (None, [])


async def test_when_no_partition_can_be_told_of_it_is_a_503(sidecar: Sidecar) -> None:
    sidecar.lookups.partitions["totals", "all"] = [LookupUnavailable("redis_down", n) for n in range(3)]
    body = assert_problem(await sidecar.get("/api/v1/lookups/totals"), 503, "lookup-unavailable")
    assert body["partitions"] == [0, 1, 2]

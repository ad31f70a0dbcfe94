"""Dead letters over HTTP: everything a record holds, and failures that say what to do."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import pytest

from app.dead_letters.api import DeadLettersUnavailable, Filters, InvalidQuery, Page, QueueSummary, UnknownQueue
from app.sidecar.dead_letter_views import bytes_view
from tests.sidecar.conftest import Sidecar, assert_problem, dead_letter

QUEUE = "dlq.veltrix.interactions"


async def test_queues_show_size_age_and_expiry(sidecar: Sidecar) -> None:
    sidecar.dead_letters.summaries = [
        QueueSummary(QUEUE, 10, 3, 1_700_000_000_000, 1_700_000_060_000, 86_400_000),
        QueueSummary("dlq.veltrix.item-activity", 10, 0, None, None, 86_400_000),
    ]

    first, second = (await sidecar.get("/api/v1/dlq/queues")).json()["queues"]

    assert first == {
        "name": QUEUE,
        "partitions": 10,
        "count": 3,
        "oldest_failed_at": "2023-11-14T22:13:20.000Z",
        "newest_failed_at": "2023-11-14T22:14:20.000Z",
        "oldest_expires_at": "2023-11-15T22:13:20.000Z",
        "retention_ms": 86_400_000,
        "statuses": None,
        "open": None,
        "oldest_pending_at": None,
        "per_minute": None,
        "top_fingerprints": None,
    }
    assert second["oldest_failed_at"] is second["oldest_expires_at"] is None


async def test_a_list_has_no_payload_and_a_cursor(sidecar: Sidecar) -> None:
    sidecar.dead_letters.page = Page((dead_letter(offset=8), dead_letter(offset=7)), "next", 20)

    body = (await sidecar.get("/api/v1/dlq/records")).json()

    assert [record["id"] for record in body["records"]] == [f"{QUEUE}:2:8", f"{QUEUE}:2:7"]
    assert body["next_cursor"] == "next"
    assert body["scanned"] == 20
    record = body["records"][0]
    assert (record["stage"], record["reason"], record["key"], record["value_size"]) == ("decode", "bad_json", "user-1", 9)
    assert record["source"] == {
        "topic": "interactions",
        "partition": 2,
        "offset": 41,
        "timestamp": "2023-11-14T22:13:10.000Z",
        "timestamp_type": "CreateTime",
    }
    assert not {"value", "headers", "stacktrace"} & set(record)


async def test_a_list_asks_the_reader_for_what_the_caller_wants(sidecar: Sidecar) -> None:
    await sidecar.get("/api/v1/dlq/records")
    await sidecar.get(
        "/api/v1/dlq/records?queue=q&limit=500&cursor=c&stage=decode&reason=bad_json&disposition=invalid&fingerprint=f"
        "&class=ValueError&version=1&key=u%C3%A4&failed_after=2023-11-14T22:13:20Z&failed_before=2023-11-14T22:13:21%2B00:00"
    )

    narrowed = Filters("decode", "bad_json", "invalid", "f", "ValueError", "1", "uä".encode(), 1_700_000_000_000, 1_700_000_001_000)
    assert sidecar.dead_letters.asked == [(QUEUE, 50, None, Filters()), ("q", 500, "c", narrowed)]


@pytest.mark.parametrize("query", ["limit=501", "limit=0", "limit=x", "failed_after=yesterday", "failed_after=2023-11-14T22:13:20"])
async def test_a_malformed_query_is_refused_before_kafka_is_asked(sidecar: Sidecar, query: str) -> None:
    assert_problem(await sidecar.get(f"/api/v1/dlq/records?{query}"), 422, "invalid-request")

    assert sidecar.dead_letters.asked == []


async def test_one_record_shows_its_bytes_and_all_headers_in_order(sidecar: Sidecar) -> None:
    headers = (("a", b"1"), ("a", b"\xff\x00"), ("b", None), ("dlq.id", b"interactions:2:41"))
    sidecar.dead_letters.record_found = dead_letter(value=b'{"a": 1}', headers=headers)

    body = (await sidecar.get(f"/api/v1/dlq/records/{QUEUE}:2:7")).json()

    assert body["headers"] == [
        ["a", "1", "MQ=="],
        ["a", None, "/wA="],
        ["b", None, None],
        ["dlq.id", "interactions:2:41", "aW50ZXJhY3Rpb25zOjI6NDE="],
    ]
    assert body["value"] == {"size": 8, "base64": "eyJhIjogMX0=", "text": '{"a": 1}', "parsed": {"a": 1}}
    assert body["key_bytes"]["text"] == "user-1"
    assert body["attempts"] == [{"at": "2023-11-14T22:13:20.000Z", "stage": "decode", "error": "ValueError"}]
    assert body["stacktrace"] == "Traceback ..."
    assert sidecar.dead_letters.asked == [f"{QUEUE}:2:7"]


async def test_null_stays_null_and_empty_stays_empty(sidecar: Sidecar) -> None:
    sidecar.dead_letters.record_found = dead_letter(key=None, value=b"")

    body = (await sidecar.get(f"/api/v1/dlq/records/{QUEUE}:2:7")).json()

    assert body["key"] is body["key_bytes"] is None
    assert body["value"] == {"size": 0, "base64": "", "text": "", "parsed": None}


@pytest.mark.parametrize(
    ("raw", "text", "parsed"),
    [
        (b"\xff\xfe", None, None),
        (b'{"cut', '{"cut', None),
        (b"[1, NaN]", "[1, NaN]", None),
        (b"[" * 500 + b"]" * 500, "[" * 500 + "]" * 500, None),
        (b'"\\ud800"', '"\\ud800"', None),
        ('{"ä": null}'.encode(), '{"ä": null}', {"ä": None}),
    ],
    ids=["binary", "cut", "NaN", "deep", "surrogate", "unicode"],
)
async def test_any_payload_can_be_shown(sidecar: Sidecar, raw: bytes, text: str | None, parsed: Any) -> None:
    sidecar.dead_letters.record_found = dead_letter(value=raw)

    value = (await sidecar.get(f"/api/v1/dlq/records/{QUEUE}:2:7")).json()["value"]

    assert b64decode(value["base64"]) == raw
    assert value["text"] == text
    assert value["parsed"] == parsed


async def test_a_made_up_time_is_no_failure(sidecar: Sidecar) -> None:
    sidecar.dead_letters.record_found = dead_letter(original_timestamp_ms=10**18)

    body = (await sidecar.get(f"/api/v1/dlq/records/{QUEUE}:2:7")).json()

    assert body["source"]["timestamp"] is None


async def test_a_record_that_is_gone_is_a_404(sidecar: Sidecar) -> None:
    body = assert_problem(await sidecar.get(f"/api/v1/dlq/records/{QUEUE}:2:7"), 404, "unknown-record")

    assert "retention" in body["detail"]


@pytest.mark.parametrize(
    ("failure", "status", "kind"),
    [
        (UnknownQueue("interactions"), 404, "unknown-queue"),
        (InvalidQuery("a cursor is what next_cursor gave"), 422, "invalid-request"),
        (DeadLettersUnavailable("Kafka does not answer"), 503, "dead-letters-unavailable"),
    ],
)
@pytest.mark.parametrize("path", ["queues", "records", "records/x:0:1"])
async def test_a_reader_that_fails_is_a_problem(sidecar: Sidecar, failure: Exception, status: int, kind: str, path: str) -> None:
    sidecar.dead_letters.failure = failure

    body = assert_problem(await sidecar.get(f"/api/v1/dlq/{path}"), status, kind)

    assert body["detail"] == str(failure)


def test_no_bytes_are_no_view() -> None:
    assert bytes_view(None) is None

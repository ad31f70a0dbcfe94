"""What `veltrix dlq` shows of an answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from app.cli.dlq_screen import line_of, show_audit, show_groups, show_jobs, show_queues, show_record, show_records, show_verdict

OPEN = {"result": "sessions", "open": 1, "revised": 0, "left_out": 0, "first": None, "last": None}
SPAN = {"first": "2026-11-29T10:00:00.000Z", "last": "2026-11-29T10:06:00.000Z"}


def shown(**answer: object) -> str:
    screen = io.StringIO()
    show_verdict(Console(file=screen, width=160), answer)
    return screen.getvalue()


def test_a_letter_that_changes_no_published_result_passes_and_no_more_is_said() -> None:
    assert shown(passes=True, results=[OPEN]).strip() == "passes"


def test_published_results_that_a_replay_corrects_are_named_and_so_are_those_that_it_leaves() -> None:
    windows = [{"result": "item_5m", "open": 0, "revised": 3, "left_out": 2, **SPAN}]
    lines = shown(checked=2, passed=2, failed={}, results=[OPEN, *windows]).splitlines()
    assert lines[0] == "2 of 2 would pass"
    assert " ".join(lines[1].split()) == (
        "3 closed item_5m are published again, corrected (between 11-29 10:00:00 and 11-29 10:06:00)"
    )
    assert lines[2].split()[:4] == ["2", "closed", "item_5m", "stay"]
    assert len(lines) == 3


AT = "2026-12-01T04:42:23.937Z"
STEERING = "a\x1b[2Jb\nc"
LETTER: dict[str, Any] = {
    "id": "dlq.veltrix.interactions:3:1734", "status": "pending", "failed_at": AT, "stage": "validate", "reason": "missing_message_id",
    "key": "user-000711", "value_size": 40_752, "replay_count": 0, "fingerprint": "537440a2cc6f70af", "message": "`messageId` is missing",
    "source": {"topic": "interactions", "partition": 6, "offset": 6528, "timestamp": AT}, "exception_class": None, "stacktrace": None,
    "delivery_count": 1, "app": "veltrix", "app_version": "1.2.3", "host": "pod-7", "value": None,
}  # fmt: skip
GROUP: dict[str, Any] = {
    "fingerprint": "537440a2cc6f70af", "counts": {"pending": 40_000}, "count": 41_000, "stage": "validate", "reason": "missing_message_id",
    "exception_class": None, "last_failed_at": AT, "first_failed_at": AT, "first_version": "1.2.3", "owner": "team-app", "note": None,
    "message": "neither `userId` nor `anonymousId` is set",
}  # fmt: skip
JOB: dict[str, Any] = {
    "id": "replay-5ccab43229b94787", "state": "COMPLETED", "matched": 40_000, "sent": 40_000, "succeeded": 39_998, "failed_again": 2,
    "skipped": 0, "exhausted": 0, "discarded": 0, "by": "jane", "note": None, "reason": "fixed in 1.4.2",
}  # fmt: skip
QUEUE: dict[str, Any] = {
    "name": "dlq.veltrix.interactions", "open": 40_000, "count": 41_000, "per_minute": 22.4, "oldest_pending_at": AT,
    "oldest_expires_at": AT, "top_fingerprints": ["537440a2cc6f70af", "0bd9de725be33bd1"],
}  # fmt: skip
DEED = {"at": AT, "who": "jane", "action": "replay", "subject": "replay-5ccab43229b94787", "result": "COMPLETED", "reason": "fixed"}


def on(width: int, show: Callable[..., None], *given: object) -> list[str]:
    screen = io.StringIO()
    show(Console(file=screen, width=width), *given)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


@pytest.mark.parametrize(("show", "row"), [(show_records, LETTER), (show_jobs, JOB), (show_queues, QUEUE), (show_audit, DEED)])
def test_on_80_columns_a_row_is_a_line(show: Callable[..., None], row: dict[str, Any]) -> None:
    lines = on(80, show, [row])
    assert len(lines) == 2
    assert str(row.get("id") or row.get("name") or row["subject"]) in lines[1]


@pytest.mark.parametrize("show", [show_jobs, show_audit, show_records, show_groups])
def test_nothing_to_show_is_said(show: Callable[..., None]) -> None:
    assert len(on(80, show, [])) == 1


def test_on_80_columns_a_group_names_its_reason_count_and_message() -> None:
    lines = on(80, show_groups, [GROUP])
    assert lines[1].split()[:4] == ["537440a2cc6f70af", "40000", "missing_message_id", "neither"]
    assert len(lines) <= 3


def test_what_a_stranger_wrote_neither_steers_the_terminal_nor_breaks_the_line() -> None:
    letter = LETTER | {"key": STEERING, "message": STEERING, "stacktrace": STEERING}
    letter["value"] = {"text": STEERING, "parsed": None}
    lines = on(160, show_records, [letter])
    lines += on(160, show_groups, [GROUP | {"message": STEERING}])
    lines += on(160, show_record, letter, {"status": "pending", "by": None, "at": None, "note": None})
    lines.append(line_of(letter))
    assert all(line.isprintable() for line in lines)
    assert r"a\x1b[2Jb\nc" in lines[1]


def test_a_json_value_is_laid_out_and_its_bytes_are_said_to_be_elsewhere() -> None:
    letter = LETTER | {"value": {"text": '{"type":"track","n":[1]}', "parsed": {"type": "track", "n": [1]}}}
    text = "\n".join(on(80, show_record, letter, {"status": "pending", "by": None, "at": None, "note": None}))
    assert '  "type": "track",\n' in text
    assert "--json" in text

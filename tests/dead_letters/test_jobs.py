"""How fast a job may go, and when it must stop."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters.api import Filters
from app.dead_letters.jobs import BATCH, Job, decode_filters, decode_job, encode_filters, encode_job


def job(**changes: Any) -> Job:
    values: dict[str, Any] = {
        "id": "replay-1", "queue": "q", "state": "RUNNING", "kind": "replay", "filters": {}, "reason": "r", "by": "ann",
        "created_ms": 1000, "matched": 10_000, "rate_per_second": 400.0,
    }  # fmt: skip
    return Job(**(values | changes))


def test_a_canary_is_sent_before_anything_else_and_no_more_than_it() -> None:
    assert job(canary_size=60).next_batch(0) == 60
    assert job(canary_size=60, sent=45).next_batch(0) == 15
    assert job(canary_size=60, sent=60).next_batch(0) == 0
    assert job(canary_size=60, sent=60).is_at_canary


def test_after_the_canary_it_begins_slowly_and_reaches_its_rate() -> None:
    passed = job(is_canary_passed=True)
    rates = [passed.rate(seconds) for seconds in (0, 5, 10, 15, 20, 1e9)]
    assert rates == [40, 80, 160, 320, 400, 400]
    assert job(canary_size=0).rate(0) == 400


def test_a_step_is_half_a_second_of_the_rate_and_at_most_one_transaction() -> None:
    assert job(canary_size=0).next_batch(0) == 200
    assert job(canary_size=0, rate_per_second=1e6).next_batch(0) == BATCH
    assert job(canary_size=0, rate_per_second=0.1).next_batch(0) == 1


@given(sent=st.integers(0, 200), skipped=st.integers(0, 200), limit=st.integers(1, 200), canary=st.integers(0, 50))
def test_it_never_takes_more_than_it_was_allowed(sent: int, skipped: int, limit: int, canary: int) -> None:
    one = job(max_records=limit, sent=sent, skipped=skipped, canary_size=canary)
    assert 0 <= one.next_batch(0) <= max(0, limit - sent - skipped)


@pytest.mark.parametrize(("failed", "state"), [(0, "RUNNING"), (5, "RUNNING"), (6, "PAUSED"), (100, "PAUSED")])
def test_it_pauses_when_more_fail_again_than_is_allowed(failed: int, state: str) -> None:
    judged = job(sent=100).judged(failed)
    assert (judged.state, judged.is_canary_passed) == (state, state == "RUNNING")
    assert (judged.note is None) == (state == "RUNNING")


def test_before_it_is_whole_a_canary_is_not_passed() -> None:
    assert not job(sent=99).judged(0).is_canary_passed


def test_it_pauses_when_the_live_stream_falls_behind() -> None:
    assert job(max_lag=10).held_by_lag(10).state == "RUNNING"
    held = job(max_lag=10).held_by_lag(11)
    assert (held.state, "11 records behind" in (held.note or "")) == ("PAUSED", True)


def test_a_discard_needs_no_canary_and_nothing_of_it_can_fail_again() -> None:
    one = job(kind="discard")
    assert (one.next_batch(0), one.is_at_canary, one.judged(50).state) == (200, False, "RUNNING")


@given(
    filters=st.builds(
        Filters, key=st.none() | st.binary(max_size=8), reason=st.none() | st.text(max_size=5), query=st.none() | st.text(max_size=5),
        failed_before_ms=st.none() | st.integers(0, 5000), failed_after_ms=st.none() | st.integers(0, 5000),
    )
)  # fmt: skip
def test_it_works_on_what_had_failed_before_it_was_made(filters: Filters) -> None:
    one = decode_job(encode_job(job(filters=encode_filters(filters))))
    assert decode_filters(one.filters) == filters
    wanted = one.wanted
    assert wanted.status == "pending"
    assert wanted.failed_before_ms == min(1000, 1000 if filters.failed_before_ms is None else filters.failed_before_ms)
    assert (wanted.key, wanted.reason, wanted.query) == (filters.key, filters.reason, filters.query)


def test_a_job_of_an_older_version_is_read() -> None:
    least = {
        "id": "j",
        "queue": "q",
        "state": "RUNNING",
        "kind": "replay",
        "filters": {},
        "reason": "",
        "by": "",
        "created_ms": 1,
        "matched": 0,
    }
    assert decode_job(msgspec.json.encode(least)).rate_per_second == 10.0

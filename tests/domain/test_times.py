"""Event time and broker time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.events import Event
from app.domain.times import ORIGINAL_TIMESTAMP_HEADER, BadTimestamp, broker_time_ms, epoch_ms, event_time_ms, in_words

RECORD_MS = 1_767_608_553_000
AT = "2026-01-05T10:22:33.123Z"
AT_MS = 1_767_608_553_123


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (AT, AT_MS),
        ("2026-01-05T12:22:33.123+02:00", AT_MS),
        ("2026-01-05T10:22:33.123", AT_MS),  # naive: UTC
        ("2026-01-05 10:22:33.123999", AT_MS),  # cut to the millisecond, not rounded
        ("2026-01-05", 1_767_571_200_000),
        ("1969-12-31T23:59:59.999Z", -1),
    ],
)
def test_iso_8601_becomes_utc_epoch_milliseconds(text: str, expected: int) -> None:
    assert epoch_ms(text, "timestamp") == expected


@given(st.datetimes(datetime(1900, 1, 2), datetime(2200, 1, 1)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001 - made aware below
def test_the_offset_never_changes_the_moment(naive: datetime, offset_minutes: int) -> None:
    moment = naive.replace(microsecond=naive.microsecond // 1000 * 1000, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(minutes=offset_minutes)))
    assert (
        epoch_ms(elsewhere.isoformat(), "x")
        == epoch_ms(moment.isoformat(), "x")
        == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    )


@pytest.mark.parametrize(
    "text", ["", "yesterday", "1767608553123", "2026-13-01T00:00:00Z", "2026-01-05T10:22:33.123Z ", "2026-02-30"]
)
def test_other_texts_are_refused_by_the_name_of_their_field(text: str) -> None:
    with pytest.raises(BadTimestamp) as caught:
        epoch_ms(text, "sentAt")
    assert caught.value.field == "sentAt"
    assert not text or text not in str(caught.value)


def test_the_extremes_of_the_calendar_are_times_or_refused() -> None:
    assert epoch_ms("0001-01-01T00:00:00+23:59", "x") < epoch_ms("9999-12-31T23:59:59-23:59", "x")


def test_timestamp_wins_and_the_others_are_not_even_parsed() -> None:
    event = Event(timestamp=AT, original_timestamp="?", sent_at="?", received_at="?")
    assert event_time_ms(event, RECORD_MS) == AT_MS


def test_the_senders_clock_is_corrected_by_received_minus_sent() -> None:
    event = Event(original_timestamp="2030-01-01T00:00:00Z", sent_at="2030-01-01T00:00:02Z", received_at=AT)
    assert event_time_ms(event, RECORD_MS) == AT_MS - 2000


def test_without_received_at_the_record_is_the_first_server() -> None:
    event = Event(original_timestamp="2030-01-01T00:00:00Z", sent_at="2030-01-01T00:00:02Z")
    assert event_time_ms(event, RECORD_MS) == RECORD_MS - 2000


def test_an_original_timestamp_that_cannot_be_corrected_is_not_trusted() -> None:
    assert event_time_ms(Event(original_timestamp="2030-01-01T00:00:00Z", received_at=AT), RECORD_MS) == AT_MS


def test_then_received_at_then_the_record() -> None:
    assert event_time_ms(Event(received_at=AT), RECORD_MS) == AT_MS
    assert event_time_ms(Event(), RECORD_MS) == RECORD_MS


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], RECORD_MS),
        ([("traceparent", b"00"), (ORIGINAL_TIMESTAMP_HEADER, b"1700000000000")], 1_700_000_000_000),
        ([(ORIGINAL_TIMESTAMP_HEADER, None)], RECORD_MS),
        ([(ORIGINAL_TIMESTAMP_HEADER, b"soon")], RECORD_MS),
        ([(ORIGINAL_TIMESTAMP_HEADER, b"-5")], RECORD_MS),
        ([(ORIGINAL_TIMESTAMP_HEADER, b"9" * 5000)], RECORD_MS),
    ],
)
def test_a_replay_is_measured_from_its_first_attempt(headers: Sequence[tuple[str, bytes | None]], expected: int) -> None:
    assert broker_time_ms(RECORD_MS, headers) == expected


@pytest.mark.parametrize(
    ("ms", "words"),
    [(0, "0 ms"), (999, "999 ms"), (1500, "1.5 s"), (300_000, "5 min"), (5_400_000, "1.5 h"), (2_592_000_000, "30 days")],
)
def test_a_duration_is_said_in_its_largest_unit(ms: int, words: str) -> None:
    assert in_words(ms) == words

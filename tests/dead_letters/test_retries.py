"""Retry tiers: where a failed record waits, for how long, when it is given up, and that its story stays whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters import headers as h
from app.dead_letters.record import BATCH_OVERHEAD_BYTES, HEADER_OVERHEAD_BYTES, DeadLetterRecordEncoder
from app.dead_letters.retries import TieredRetries
from app.engine.api import Failure, Output, Record, Retry
from app.settings import Settings
from app.topics import DEAD_LETTER_MAX_BYTES, INTERACTIONS, ITEM_ACTIVITY, SOURCE_MAX_MESSAGE_BYTES, dead_letters_of, retry_tiers
from tests.dead_letters.records import FAILED_AT_MS, FakeRecord, added

TIMED_OUT = Failure("enrich", "reference_unavailable", "reference data: database_down", "transient_timeout")
TIERS = ("retry.veltrix.interactions.5s", "retry.veltrix.interactions.1m", "retry.veltrix.interactions.10m")
DELAYS_MS = (5_000, 60_000, 600_000)


def retries(spread: float = 0.5, **settings: Any) -> TieredRetries:
    built = Settings(**settings)
    tiers = retry_tiers(built, INTERACTIONS)
    return TieredRetries(INTERACTIONS, tiers, built.retry_max_attempts, built.retry_give_up_ms, lambda: spread)


def encoder() -> DeadLetterRecordEncoder:
    sources = {INTERACTIONS: dead_letters_of("veltrix", INTERACTIONS)}
    return DeadLetterRecordEncoder(Settings(), sources, retried=dict.fromkeys(TIERS, INTERACTIONS))


def waits(record: Record, retry: Retry, at_ms: int = FAILED_AT_MS) -> FakeRecord:
    """``record`` as it is read from its tier."""
    sent = encoder()(record, TIMED_OUT, at_ms, retry)
    return FakeRecord(sent.topic, record.partition, 7, sent.key, sent.value, at_ms, 0, sent.headers)


def failing(record: Record, policy: TieredRetries, times: int) -> tuple[FakeRecord, list[Retry]]:
    """It fails so often, always when it is due."""
    plans, now_ms, current = list[Retry](), FAILED_AT_MS, record
    for _ in range(times):
        plan = policy.plan(current, now_ms)
        assert plan is not None
        plans.append(plan)
        current, now_ms = waits(current, plan, now_ms), plan.due_ms
    assert isinstance(current, FakeRecord)
    return current, plans


def test_a_record_meets_one_tier_after_the_other_and_stays_in_the_last() -> None:
    _, plans = failing(FakeRecord(), retries(), 5)

    assert [plan.topic for plan in plans] == [*TIERS, TIERS[2], TIERS[2]]
    assert [plan.attempt for plan in plans] == [1, 2, 3, 4, 5]


@given(spread=st.floats(0, 1), failures=st.integers(1, 6))
def test_the_delay_is_that_of_the_tier_give_or_take_a_fifth(spread: float, failures: int) -> None:
    _, plans = failing(FakeRecord(), retries(spread), failures)

    now_ms = FAILED_AT_MS
    for plan in plans:
        delay_ms = DELAYS_MS[TIERS.index(plan.topic)]
        assert 0.8 * delay_ms - 1 <= plan.due_ms - now_ms <= 1.2 * delay_ms
        now_ms = plan.due_ms


def test_a_record_is_given_up_after_so_many_attempts() -> None:
    policy = retries(retry_max_attempts=4)
    last, _ = failing(FakeRecord(), policy, 4)

    assert policy.plan(last, FAILED_AT_MS) is None


@pytest.mark.parametrize(("late_ms", "is_given_up"), [(-1, False), (0, True), (10**9, True)])
def test_a_record_is_given_up_so_long_after_its_first_failure(late_ms: int, is_given_up: bool) -> None:
    policy = retries(retry_give_up_ms=3_600_000)
    waiting, _ = failing(FakeRecord(), policy, 2)

    assert (policy.plan(waiting, FAILED_AT_MS + 3_600_000 + late_ms) is None) is is_given_up


def test_what_a_record_of_the_source_says_about_itself_does_not_count() -> None:
    forged = FakeRecord(headers=[(h.RETRY_ATTEMPT, b"49"), (h.FIRST_FAILED_AT, b"2001-01-01T00:00:00.000Z")])

    plan = retries().plan(forged, FAILED_AT_MS)

    assert plan is not None
    assert (plan.topic, plan.attempt) == (TIERS[0], 1)


@pytest.mark.parametrize(
    ("waited_ms", "tier"), [(0, 0), (59_999, 0), (60_000, 1), (599_999, 1), (600_000, 2), (80_000_000, 2), (86_400_000, None)]
)
def test_what_waits_for_its_turn_is_looked_at_less_often_the_longer_it_waits(waited_ms: int, tier: int | None) -> None:
    policy = retries()
    first = policy.wait(FakeRecord(), FAILED_AT_MS)
    assert first is not None

    again = policy.wait(waits(FakeRecord(), first), FAILED_AT_MS + waited_ms)

    assert (None if again is None else TIERS.index(again.topic)) == tier
    assert first.attempt == 0
    assert again is None or again.attempt == 0, "to wait is no attempt"


def test_a_record_that_waits_between_its_attempts_keeps_their_number() -> None:
    failed, _ = failing(FakeRecord(), retries(), 2)
    waited = retries().wait(failed, FAILED_AT_MS)
    assert waited is not None

    plan = retries().plan(waits(failed, waited), FAILED_AT_MS)

    assert plan is not None
    assert (waited.attempt, plan.attempt) == (2, 3)


def test_the_origin_of_a_record_outlives_retries_and_replays() -> None:
    failed, _ = failing(FakeRecord(), retries(), 3)
    replayed = FakeRecord(offset=900, headers=[(h.ID, b"interactions:3:41")])
    assert [retries().origin(record) for record in (FakeRecord(), failed, replayed)] == [41, 41, 41]


@pytest.mark.parametrize("raw", [b"other:3:41", b"interactions:4:41", b"x", b"", None])
def test_an_origin_elsewhere_is_none(raw: bytes | None) -> None:
    assert retries().origin(FakeRecord(offset=900, headers=[(h.ID, raw)])) == 900
    assert retries().origin(FakeRecord(TIERS[0], offset=900, headers=[(h.ID, raw)])) < 0, "no offset of the source"


def test_only_a_tier_can_say_that_a_letter_was_discarded() -> None:
    said = [(h.ID, b"interactions:3:41"), (h.DISCARDED, b"true")]
    assert retries().is_release(FakeRecord(TIERS[0], headers=said))
    assert not retries().is_release(FakeRecord(headers=said))
    assert not retries().is_release(FakeRecord(TIERS[0], headers=said[:1]))


@pytest.mark.parametrize("raw", [b"", b"x", b"-5", b"9" * 40, None])
def test_unreadable_headers_of_a_tier_never_lose_a_record(raw: bytes | None) -> None:
    odd = FakeRecord(TIERS[1], headers=[(h.RETRY_ATTEMPT, raw), (h.RETRY_DUE, raw), (h.FIRST_FAILED_AT, raw)])

    due_ms, record = retries().arrived(odd)

    assert due_ms <= 0, "due at once"
    assert (record.value, record.timestamp) == (odd.value, odd.timestamp)
    assert retries().plan(odd, FAILED_AT_MS) is not None


def test_a_record_comes_back_with_the_timestamp_key_and_headers_that_it_had() -> None:
    original = FakeRecord(timestamp_type=1, headers=[("traceparent", b"00-x"), ("x", None), ("x", b"2")])
    plan = retries().plan(original, FAILED_AT_MS)
    assert plan is not None

    due_ms, back = retries().arrived(waits(original, plan))

    assert due_ms == plan.due_ms
    assert (back.key, back.value, back.timestamp, back.timestamp_type) == (
        original.key, original.value, original.timestamp, original.timestamp_type,
    )  # fmt: skip
    assert [header for header in back.headers if header[0] not in h.MANAGED] == original.headers
    assert (back.topic, back.offset) == (TIERS[0], 7), "its place in the tier, which is what is committed"


def test_the_dead_letter_of_a_given_up_record_tells_its_whole_story() -> None:
    last, plans = failing(FakeRecord(headers=[("traceparent", b"00-x")]), retries(), 7)
    _, back = retries().arrived(last)

    letter = encoder()(back, TIMED_OUT, plans[-1].due_ms)

    told = added(letter)
    assert letter.topic == "dlq.veltrix.interactions"
    assert (told["dlq.id"], told["__dlq.errors.offset"], told["__dlq.errors.delivery.count"]) == ("interactions:3:41", "41", "8")
    assert (told["dlq.first.failed.at"], told["dlq.original.timestamp"]) == ("2023-11-14T22:13:20.123Z", "1699999999000")
    assert [attempt["class"] for attempt in json.loads(told["dlq.attempts"])] == ["reference_unavailable"] * h.MAX_ATTEMPTS
    assert "dlq.retry.due" not in told
    assert ("traceparent", b"00-x") in letter.headers


def size(output: Output) -> int:
    headers = sum(HEADER_OVERHEAD_BYTES + len(name.encode()) + len(value or b"") for name, value in output.headers)
    return BATCH_OVERHEAD_BYTES + len(output.key or b"") + len(output.value or b"") + headers


def test_the_largest_source_record_fits_a_tier_however_often_it_fails() -> None:
    exception = ZeroDivisionError("x" * 100_000)
    failure = Failure("aggregate", "r" * 200, "m" * 100_000, "transient_timeout", exception)
    record: Record = FakeRecord(key=b"k" * 1_000, value=b"v" * (SOURCE_MAX_MESSAGE_BYTES - 1_000))
    for _ in range(20):
        plan = retries().plan(record, FAILED_AT_MS)
        assert plan is not None
        sent = encoder()(record, failure, FAILED_AT_MS, plan)
        assert size(sent) <= DEAD_LETTER_MAX_BYTES
        record = FakeRecord(sent.topic, 3, 7, sent.key, sent.value, FAILED_AT_MS, 0, sent.headers)


def test_only_the_source_of_outside_events_has_tiers_and_none_when_switched_off() -> None:
    assert TieredRetries.of(Settings(), ITEM_ACTIVITY) is None
    assert TieredRetries.of(Settings(retry_delays=""), INTERACTIONS) is None
    assert [tier.delay_ms for tier in retry_tiers(Settings(retry_delays="250ms,2h"), INTERACTIONS)] == [250, 7_200_000]

"""One reason per defect of an event or of its place; everything else passes with what was derived from it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from app.domain.dedupe import digest_of
from app.domain.errors import Reason, Rejection
from app.domain.events import Interaction
from app.domain.routing import partition_of
from app.domain.times import ORIGINAL_TIMESTAMP_HEADER
from app.domain.validation import classify
from tests.domain.strategies import LIMITS
from tests.fakes import FakeRecord

NOW_MS = 1_767_608_553_123
MARK = "s3cret"
GOOD = {"type": "track", "messageId": "m-1", "userId": "u-1", "event": "Product Viewed", "timestamp": "2026-01-05T10:22:33.000Z"}


def record(changes: dict[str, Any] | None = None, key: bytes | None = b"u-1", **fields: Any) -> FakeRecord:
    """A record of the good event with ``changes`` (None removes a member), in the partition of its key."""
    event = {name: value for name, value in (GOOD | (changes or {})).items() if value is not None}
    home = 0 if key is None else partition_of(key, LIMITS.partitions)
    return FakeRecord(msgspec.json.encode(event), key, timestamp=NOW_MS, **({"partition": home} | fields))


def accepted(source: FakeRecord) -> Interaction:
    result = classify(source, LIMITS)
    assert isinstance(result, Interaction), result
    return result


def refused(source: FakeRecord) -> Reason:
    result = classify(source, LIMITS)
    assert isinstance(result, Rejection), result
    assert MARK not in result.message
    return result.reason


def test_a_good_event_passes_with_key_digest_time_and_items() -> None:
    interaction = accepted(
        record({"properties": {"product_id": 7, "products": [{"product_id": "a"}, {"sku": "b"}, {"product_id": ""}]}})
    )
    assert interaction.user_key == "u:u-1"
    assert interaction.digest == digest_of("m-1")
    assert interaction.time_ms == 1_767_608_553_000
    assert interaction.items == ("7", "a")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": None}, Reason.UNKNOWN_TYPE),
        ({"type": MARK}, Reason.UNKNOWN_TYPE),
        ({"type": "Track"}, Reason.UNKNOWN_TYPE),
        ({"messageId": None}, Reason.MISSING_MESSAGE_ID),
        ({"messageId": ""}, Reason.MISSING_MESSAGE_ID),
        ({"userId": None}, Reason.MISSING_IDENTITY),
        ({"userId": "", "anonymousId": ""}, Reason.MISSING_IDENTITY),
        ({"event": None}, Reason.MISSING_EVENT_NAME),
        ({"event": ""}, Reason.MISSING_EVENT_NAME),
        ({"messageId": MARK * 100}, Reason.ID_TOO_LONG),
        ({"userId": MARK * 100}, Reason.ID_TOO_LONG),
        ({"anonymousId": MARK * 100}, Reason.ID_TOO_LONG),
        ({"properties": {"products": [{"product_id": "a"}, {"product_id": MARK * 100}]}}, Reason.ID_TOO_LONG),
        ({"timestamp": MARK}, Reason.BAD_TIMESTAMP),
        ({"timestamp": ""}, Reason.BAD_TIMESTAMP),
        ({"timestamp": None, "receivedAt": MARK}, Reason.BAD_TIMESTAMP),
        ({"timestamp": "2025-12-01T00:00:00Z"}, Reason.TOO_OLD),
        ({"timestamp": "2026-01-05T11:00:00Z"}, Reason.TOO_FAR_AHEAD),
        ({"userId": MARK}, Reason.KEY_MISMATCH),
        ({"userId": 7}, Reason.WRONG_TYPE),
    ],
)
def test_each_defect_has_its_reason(changes: dict[str, Any], reason: Reason) -> None:
    assert refused(record(changes)) is reason


@pytest.mark.parametrize("field", ["messageId", "userId", "anonymousId"])
def test_the_id_limit_is_inclusive_for_each_id(field: str) -> None:
    longest = "x" * LIMITS.max_id_chars
    key = longest.encode() if field == "userId" else b"u-1"
    accepted(record({field: longest}, key))
    assert refused(record({field: longest + "x"}, key)) is Reason.ID_TOO_LONG


@pytest.mark.parametrize("call", ["page", "screen", "identify", "group", "alias"])
def test_other_calls_need_no_event_name(call: str) -> None:
    assert accepted(record({"type": call, "event": None})).event.type == call


@pytest.mark.parametrize("user_id", [None, ""])
def test_without_a_user_the_anonymous_id_is_the_identity(user_id: str | None) -> None:
    assert accepted(record({"userId": user_id, "anonymousId": "anön"}, "anön".encode())).user_key == "a:anön"


def test_a_user_and_an_anonymous_id_of_the_same_text_have_different_state() -> None:
    anonymous = accepted(record({"userId": None, "anonymousId": "u-1"}))
    assert anonymous.user_key != accepted(record()).user_key


def test_both_time_limits_are_inclusive() -> None:
    event_ms = 1_767_608_553_000
    for offset_ms, beyond_ms, reason in (
        (LIMITS.max_age_ms, 1, Reason.TOO_OLD),
        (-LIMITS.max_ahead_ms, -1, Reason.TOO_FAR_AHEAD),
    ):
        edge = record()
        edge.timestamp = event_ms + offset_ms
        accepted(edge)
        edge.timestamp += beyond_ms
        assert refused(edge) is reason


def test_a_late_replay_is_judged_by_the_time_of_its_first_attempt() -> None:
    replay = record()
    replay.timestamp = NOW_MS + 30 * 86_400_000
    assert refused(replay) is Reason.TOO_OLD
    replay.headers = [(ORIGINAL_TIMESTAMP_HEADER, str(NOW_MS).encode())]
    accepted(replay)


def test_the_key_must_be_the_identity() -> None:
    assert refused(record({"anonymousId": "a-1"}, b"a-1")) is Reason.KEY_MISMATCH
    assert refused(record(key=b"")) is Reason.KEY_MISMATCH


def test_a_record_without_a_key_or_in_another_partition_is_misrouted() -> None:
    home = partition_of(b"u-1", LIMITS.partitions)
    assert refused(record(key=None)) is Reason.MISROUTED
    for partition in range(LIMITS.partitions):
        source = record(partition=partition)
        if partition == home:
            accepted(source)
        else:
            assert refused(source) is Reason.MISROUTED


def test_a_value_that_is_no_event_is_refused_before_its_place_is_looked_at() -> None:
    assert refused(FakeRecord(b"{", None)) is Reason.INVALID_JSON


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_stage_and_a_disposition(reason: Reason) -> None:
    rejection = Rejection(reason, "x")
    assert rejection.stage in ("decode", "validate")
    assert rejection.disposition == ("oversize" if reason is Reason.OVERSIZE else "invalid")

"""Capture: the original is untouched, and the added headers say everything that the format asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters import headers as h
from app.dead_letters.record import BATCH_OVERHEAD_BYTES, HEADER_OVERHEAD_BYTES, MAX_KINDS, UnknownSource
from app.engine.api import Failure
from tests.dead_letters.records import FAILED_AT_MS, FAILURE, FakeRecord, added, encoder, replayed

BINARY = st.binary(max_size=64)
FOREIGN_NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name not in h.MANAGED)
HEADERS = st.lists(st.tuples(FOREIGN_NAMES | st.sampled_from(["traceparent", "x", "x"]), st.none() | BINARY), max_size=8)


def boom() -> Exception:
    try:
        raise LookupError("jane@example.org")
    except LookupError as exc:
        return exc


@given(key=st.none() | BINARY, value=st.none() | BINARY, headers=HEADERS)
def test_key_value_and_every_header_of_the_original_are_kept_as_they_are(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> None:
    letter = encoder()(FakeRecord(key=key, value=value, headers=headers), FAILURE, FAILED_AT_MS)

    assert letter.key == key
    assert letter.value == value
    assert list(letter.headers[: len(headers)]) == headers


def test_every_header_of_the_format_is_written_as_text() -> None:
    letter = encoder()(FakeRecord(), FAILURE, FAILED_AT_MS)

    assert letter.topic == "dlq.veltrix.interactions"
    assert added(letter) == {
        "__dlq.errors.topic": "interactions",
        "__dlq.errors.partition": "3",
        "__dlq.errors.offset": "41",
        "__dlq.errors.group": "veltrix",
        "__dlq.errors.delivery.count": "1",
        "__dlq.errors.message": "messageId is missing",
        "dlq.id": "interactions:3:41",
        "dlq.disposition": "invalid",
        "dlq.stage": "validate",
        "dlq.reason": "missing_message_id",
        "dlq.fingerprint": added(letter)["dlq.fingerprint"],
        "dlq.failed.at": "2023-11-14T22:13:20.123Z",
        "dlq.first.failed.at": "2023-11-14T22:13:20.123Z",
        "dlq.original.timestamp": "1699999999000",
        "dlq.original.timestamp.type": "CreateTime",
        "dlq.app": "veltrix",
        "dlq.app.version": "1.2.3",
        "dlq.host": "pod-7",
        "dlq.attempts": '[{"at":"2023-11-14T22:13:20.123Z","stage":"validate","class":"missing_message_id"}]',
        "dlq.replay.count": "0",
    }


def test_the_headers_of_kip_1191_come_in_its_order() -> None:
    names = [name for name, _ in encoder()(FakeRecord(), FAILURE, FAILED_AT_MS).headers if name.startswith("__dlq.")]

    assert names == [f"__dlq.errors.{part}" for part in ("topic", "partition", "offset", "group", "delivery.count", "message")]


def test_no_managed_header_is_written_twice() -> None:
    headers = [("dlq.stage", b"forged"), ("dlq.stage", None), ("__dlq.errors.topic", b"secrets")]
    letter = encoder()(FakeRecord(headers=headers), FAILURE, FAILED_AT_MS)

    assert max(Counter(name for name, _ in letter.headers).values()) == 1
    assert added(letter)["__dlq.errors.topic"] == "interactions"


@pytest.mark.parametrize(("kind", "name"), [(0, "CreateTime"), (1, "LogAppendTime"), (None, "NoTimestampType")])
def test_the_timestamp_type_has_kafkas_name(kind: Any, name: str) -> None:
    letter = encoder()(FakeRecord(timestamp_type=kind), FAILURE, FAILED_AT_MS)

    assert added(letter)["dlq.original.timestamp.type"] == name


def test_a_long_message_is_cut_at_one_kib_between_characters() -> None:
    message = added(encoder()(FakeRecord(), Failure("decode", "x", "é" * 2000), FAILED_AT_MS))["__dlq.errors.message"]

    assert message == "é" * 512


def test_a_record_of_a_topic_without_a_queue_is_refused() -> None:
    with pytest.raises(UnknownSource, match="secrets"):
        encoder()(FakeRecord(topic="secrets"), FAILURE, FAILED_AT_MS)


# -- exceptions -----------------------------------------------------------------------------------


def test_an_exception_gives_class_and_trace_but_not_its_text() -> None:
    headers = added(encoder()(FakeRecord(), Failure("aggregate", "agent_error", exception=boom()), FAILED_AT_MS))

    assert headers["dlq.exception.class"] == "LookupError"
    assert "in boom" in headers["dlq.exception.stacktrace"]
    assert "dlq.exception.class" not in added(encoder()(FakeRecord(), FAILURE, FAILED_AT_MS))
    assert json.loads(headers["dlq.attempts"])[0]["class"] == "LookupError"
    assert "jane@example.org" not in json.dumps(headers).replace('LookupError(\\"jane@example.org\\")', "the line of source code")


def test_the_trace_can_be_switched_off() -> None:
    headers = added(encoder(dlq_stacktraces=False)(FakeRecord(), Failure("aggregate", "e", exception=boom()), FAILED_AT_MS))

    assert "dlq.exception.stacktrace" not in headers
    assert headers["dlq.exception.class"] == "LookupError"


def test_different_failures_never_share_their_prepared_headers() -> None:
    encode = encoder()
    first = added(encode(FakeRecord(), Failure("aggregate", "agent_error", "one", exception=boom()), FAILED_AT_MS))
    second = added(encode(FakeRecord(), Failure("aggregate", "agent_error", "two", exception=KeyError("x")), FAILED_AT_MS + 1))

    assert (first["dlq.exception.class"], second["dlq.exception.class"]) == ("LookupError", "KeyError")
    assert first["dlq.fingerprint"] != second["dlq.fingerprint"]
    assert (first["__dlq.errors.message"], second["__dlq.errors.message"]) == ("one", "two")
    assert second["dlq.failed.at"] == "2023-11-14T22:13:20.124Z"


def test_prepared_headers_are_bounded_and_stay_right_beyond_the_bound() -> None:
    encode = encoder()
    for number in range(MAX_KINDS + 10):
        assert added(encode(FakeRecord(), Failure("decode", f"r{number}"), FAILED_AT_MS))["dlq.reason"] == f"r{number}"

    assert added(encode(FakeRecord(), Failure("decode", "r0"), FAILED_AT_MS))["dlq.reason"] == "r0"


# -- records that failed before -------------------------------------------------------------------


def test_a_replay_that_fails_again_keeps_its_origin_and_reports_its_last_failure() -> None:
    encode = encoder()
    original = FakeRecord(headers=[("traceparent", b"00-1"), ("x", None), ("x", b"2")])
    again = replayed(encode(original, FAILURE, FAILED_AT_MS), offset=900, job="job-1")
    letter = encode(again, Failure("enrich", "agent_error", "later", exception=boom()), FAILED_AT_MS + 60_000)
    headers = added(letter)

    assert headers["dlq.id"] == "interactions:3:41"
    assert (headers["__dlq.errors.topic"], headers["__dlq.errors.offset"]) == ("interactions", "41")
    assert headers["__dlq.errors.delivery.count"] == "2"
    assert headers["__dlq.errors.message"] == "later"
    assert headers["dlq.first.failed.at"] == "2023-11-14T22:13:20.123Z"
    assert headers["dlq.failed.at"] == "2023-11-14T22:14:20.123Z"
    assert headers["dlq.original.timestamp"] == "1699999999000"
    assert headers["dlq.exception.class"] == "LookupError"
    assert (headers["dlq.replay.count"], headers["dlq.replay.job"]) == ("1", "job-1")
    assert [attempt["stage"] for attempt in json.loads(headers["dlq.attempts"])] == ["validate", "enrich"]
    assert [pair for pair in letter.headers if pair[0] in {"traceparent", "x"}] == original.headers


def test_only_the_last_five_attempts_are_kept_and_headers_do_not_grow() -> None:
    encode = encoder()
    letter = encode(FakeRecord(), FAILURE, FAILED_AT_MS)
    sizes = []
    for turn in range(1, 9):
        letter = encode(replayed(letter, offset=100 + turn, job="j"), FAILURE, FAILED_AT_MS + turn)
        sizes.append(len(letter.headers))
    attempts = json.loads(added(letter)["dlq.attempts"])

    assert len(attempts) == 5
    assert attempts[-1]["at"] == "2023-11-14T22:13:20.131Z"
    assert len(set(sizes)) == 1
    assert added(letter)["dlq.replay.count"] == "8"


def test_a_replay_with_nothing_but_id_and_count_is_still_the_same_record() -> None:
    record = FakeRecord(offset=7, headers=[("dlq.id", b"interactions:1:2"), ("dlq.replay.count", b"1")])
    headers = added(encoder()(record, FAILURE, FAILED_AT_MS))

    assert headers["dlq.id"] == "interactions:1:2"
    assert headers["dlq.replay.count"] == "1"
    assert headers["dlq.first.failed.at"] == headers["dlq.failed.at"]


@pytest.mark.parametrize("forged", [b"secrets:0:1", b"interactions:0", b"interactions:-1:2", b"interactions:x:2", b"\xff", b""])
def test_an_invented_lineage_is_ignored(forged: bytes) -> None:
    headers = [("dlq.id", forged), ("__dlq.errors.topic", b"secrets"), ("dlq.replay.count", b"7"), ("dlq.replay.job", b"j")]
    found = added(encoder()(FakeRecord(headers=headers), FAILURE, FAILED_AT_MS))

    assert found["dlq.id"] == "interactions:3:41"
    assert found["__dlq.errors.topic"] == "interactions"
    assert found["dlq.replay.count"] == "0"
    assert "dlq.replay.job" not in found


def test_of_repeated_lineage_headers_the_first_one_counts() -> None:
    record = FakeRecord(headers=[("dlq.id", b"interactions:1:2"), ("dlq.id", b"interactions:3:4")])

    assert added(encoder()(record, FAILURE, FAILED_AT_MS))["dlq.id"] == "interactions:1:2"


def test_headers_longer_than_we_write_are_not_carried_on() -> None:
    headers = [("dlq.id", b"interactions:3:1"), ("dlq.replay.job", b"j" * 5000), ("dlq.attempts", b"[" + b" " * 5000 + b"]")]
    letter = encoder()(FakeRecord(headers=headers), FAILURE, FAILED_AT_MS)

    assert sum(len(value or b"") for _, value in letter.headers) < 2048


# -- what the queue cannot take -------------------------------------------------------------------


def size_of(headers: Iterable[tuple[str, bytes | None]], key: bytes | None, value: bytes | None) -> int:
    """Upper bound of the RecordBatch that carries this one record."""
    total = sum(HEADER_OVERHEAD_BYTES + len(name.encode()) + len(held or b"") for name, held in headers)
    return total + BATCH_OVERHEAD_BYTES + len(key or b"") + len(value or b"")


def test_a_value_over_the_event_limit_keeps_its_bytes() -> None:
    value = b"x" * 900_000
    letter = encoder()(FakeRecord(value=value), Failure("decode", "oversize", disposition="oversize"), FAILED_AT_MS)

    assert letter.value == value
    assert "dlq.value.bytes" not in added(letter)


def test_a_value_that_the_queue_cannot_take_becomes_a_pointer() -> None:
    letter = encoder(max_bytes=100_000)(FakeRecord(value=b"x" * 99_500, headers=[("x", None)]), FAILURE, FAILED_AT_MS)
    headers = added(letter)

    assert letter.value is None
    assert letter.key == b"user-1"
    assert headers["dlq.disposition"] == "oversize"
    assert headers["dlq.reason"] == "missing_message_id"
    assert headers["dlq.value.bytes"] == "99500"
    assert headers["dlq.id"] == "interactions:3:41"
    assert "x" in dict(letter.headers)


def test_the_trace_is_given_up_before_the_value() -> None:
    failure = Failure("aggregate", "agent_error", exception=boom())
    whole = encoder()(FakeRecord(), failure, FAILED_AT_MS)
    limit = size_of(whole.headers, whole.key, whole.value) - 10
    letter = encoder(max_bytes=limit)(FakeRecord(), failure, FAILED_AT_MS)

    assert letter.value == FakeRecord().value
    assert "dlq.exception.stacktrace" not in added(letter)
    assert added(letter)["dlq.disposition"] == "invalid"


@given(value=st.integers(0, 6000), key=st.integers(0, 6000), header=st.integers(0, 6000), max_bytes=st.integers(2000, 8000))
def test_a_dead_letter_never_exceeds_what_the_queue_takes(value: int, key: int, header: int, max_bytes: int) -> None:
    record = FakeRecord(key=b"k" * key, value=b"v" * value, headers=[("h" * header, b"x"), ("é", b"h" * header)])
    letter = encoder(max_bytes=max_bytes)(record, FAILURE, FAILED_AT_MS)

    assert size_of(letter.headers, letter.key, letter.value) <= max_bytes

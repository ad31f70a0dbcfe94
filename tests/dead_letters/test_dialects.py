"""Other systems' dead letters: what their headers say is understood, and what they do not say is left open."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters.dialects import DIALECTS, decode_any
from tests.dead_letters.letters import letter
from tests.dead_letters.records import FAILED_AT_MS, FakeRecord

TRACE = b"java.lang.IllegalStateException: no id 4711\n\tat shop.Orders.on(Orders.java:12)"


def i(number: int) -> bytes:
    return struct.pack(">i", number)


def q(number: int) -> bytes:
    return struct.pack(">q", number)


CONNECT = {
    "__connect.errors.topic": b"orders", "__connect.errors.partition": b"3", "__connect.errors.offset": b"4711",
    "__connect.errors.connector.name": b"jdbc-sink", "__connect.errors.task.id": b"0", "__connect.errors.stage": b"VALUE_CONVERTER",
    "__connect.errors.class.name": b"org.apache.kafka.connect.json.JsonConverter",
    "__connect.errors.exception.class.name": b"org.apache.kafka.connect.errors.DataException",
    "__connect.errors.exception.message": b"Converting byte[] failed\nmore", "__connect.errors.exception.stacktrace": TRACE,
}  # fmt: skip
STREAMS = {
    "__streams.errors.exception": b"java.lang.RuntimeException", "__streams.errors.message": b"boom", "__streams.errors.stacktrace": TRACE,
    "__streams.errors.topic": b"orders", "__streams.errors.partition": b"3", "__streams.errors.offset": b"4711",
}  # fmt: skip
SHARE = {
    "__dlq.errors.topic": b"orders", "__dlq.errors.partition": b"3", "__dlq.errors.offset": b"4711", "__dlq.errors.group": b"shares",
    "__dlq.errors.delivery.count": b"5", "__dlq.errors.message": b"rejected",
}  # fmt: skip
SPRING = {
    "kafka_dlt-original-topic": b"orders", "kafka_dlt-original-partition": i(3), "kafka_dlt-original-offset": q(4711),
    "kafka_dlt-original-timestamp": q(FAILED_AT_MS), "kafka_dlt-original-timestamp-type": b"CreateTime",
    "kafka_dlt-original-consumer-group": b"shop",
    "kafka_dlt-exception-fqcn": b"org.springframework.kafka.listener.ListenerExecutionFailedException",
    "kafka_dlt-exception-cause-fqcn": b"java.lang.IllegalStateException", "kafka_dlt-exception-message": b"Listener failed; no id 4711",
    "kafka_dlt-exception-stacktrace": TRACE, "retry_topic-attempts": i(4),
}  # fmt: skip
POSTHOG = {
    "dlq_reason": b"invalid uuid", "dlq_step": b"parse", "dlq_timestamp": b"2023-11-14T22:13:20.123Z", "dlq_topic": b"orders",
    "dlq_partition": b"3", "dlq_offset": b"4711", "dlq_consumer_group": b"ingest", "dlq_team_id": b"2", "dlq_event_uuid": b"u-1",
    "dlq_replay_count": b"1",
}  # fmt: skip
KARAFKA = {
    "source_topic": b"orders", "source_partition": b"3", "source_offset": b"4711", "source_consumer_group": b"shop", "source_attempts": b"2",
}  # fmt: skip
JITSU = {
    "retries": b"3",
    "retry_time": b"x",
    "error": b"timeout",
    "original_topic": b"orders",
    "function_id": b"f-1",
    "connection_ids": b"c",
}
ARROYO = {"original_partition": b"3", "original_offset": b"4711"}
PLACE = {"source_topic": "orders", "source_partition": 3, "source_offset": 4711}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (CONNECT, PLACE | {"stage": "VALUE_CONVERTER", "exception_class": "org.apache.kafka.connect.errors.DataException",
                           "message": "Converting byte[] failed", "app": "jdbc-sink", "dlq_id": "orders:3:4711"}),
        (STREAMS, PLACE | {"exception_class": "java.lang.RuntimeException", "message": "boom", "stacktrace": TRACE.decode()}),
        (SHARE, PLACE | {"group": "shares", "delivery_count": 5, "message": "rejected", "reason": "share-group"}),
        (SPRING, PLACE | {"exception_class": "java.lang.IllegalStateException", "original_timestamp_ms": FAILED_AT_MS,
                          "original_timestamp_type": "CreateTime", "group": "shop", "delivery_count": 4}),
        (POSTHOG, PLACE | {"reason": "invalid uuid", "stage": "parse", "failed_at_ms": 1_700_000_000_123, "dlq_id": "u-1", "replay_count": 1}),
        (KARAFKA, PLACE | {"group": "shop", "delivery_count": 2}),
        (JITSU, {"source_topic": "orders", "message": "timeout", "delivery_count": 3, "app": "f-1"}),
        (ARROYO, {"source_topic": None, "source_partition": 3, "source_offset": 4711, "dlq_id": None, "reason": "arroyo"}),
    ],
    ids=[dialect.name for dialect in DIALECTS],
)  # fmt: skip
def test_what_a_dialect_says_is_understood(headers: dict[str, bytes], expected: dict[str, Any]) -> None:
    found = decode_any(FakeRecord("orders-dlt", 1, 9, b"k", b"v", headers=list(headers.items())))
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.topic, found.partition, found.offset, found.key, found.value) == ("orders-dlt", 1, 9, b"k", b"v")
    assert found.headers == tuple(headers.items()), "as they are"
    assert found.fingerprint is not None
    assert len(found.fingerprint) == 16


MADE = {
    letter["dialect"]: letter
    for letter in map(json.loads, (Path(__file__).parent / "fixtures" / "dialects.jsonl").read_text(encoding="utf-8").splitlines())
}
"""Dead letters that the systems themselves have written (``make dialects``)"""


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("connect", {
            "source_topic": "orders", "source_partition": 3, "source_offset": 1042, "dlq_id": "orders:3:1042", "app": "orders-sink",
            "stage": "VALUE_CONVERTER", "exception_class": "org.apache.kafka.connect.errors.DataException",
            "message": "Converting byte[] to Kafka Connect data failed due to serialization error",
        }),
        ("streams", {
            "source_topic": "orders", "source_partition": 0, "source_offset": 0, "dlq_id": "orders:0:0",
            "exception_class": "java.lang.IllegalStateException", "message": "order 17 has no customer",
        }),
        ("spring", {
            "source_topic": "orders", "source_partition": 3, "source_offset": 1042, "dlq_id": "orders:3:1042", "group": "orders-group",
            "exception_class": "java.lang.IllegalArgumentException", "original_timestamp_ms": 1_767_600_000_123,
            "original_timestamp_type": "CreateTime", "message": "Listener method threw exception; order 17 has no customer",
        }),
        ("share-group", {
            "source_topic": "orders", "source_partition": 3, "source_offset": 2, "dlq_id": "orders:3:2", "group": "orders-workers",
            "delivery_count": 1, "message": "Offset rejected by client.",
        }),
        ("arroyo", {"source_partition": 3, "source_offset": 1042, "source_topic": None}),
    ],
)  # fmt: skip
def test_a_letter_that_the_system_itself_has_written_is_understood(dialect: str, expected: dict[str, Any]) -> None:
    made = MADE[dialect]
    headers = [(name, None if held is None else b64decode(held)) for name, held in made["headers"]]
    found = decode_any(
        FakeRecord(made["topic"], made["partition"], 9, b64decode(made["key"]), b64decode(made["value"]), headers=headers)
    )
    assert {name: getattr(found, name) for name in expected} == expected
    assert (found.key, found.value) == (b"user-7", b'{"type":"track","messageId":17}')
    assert (("trace", b"abc") in found.headers) is (dialect != "share-group"), "Kafka 4.4 copies a record without its headers"
    known = next(known for known in DIALECTS if known.name == dialect)
    read = {header for header, _ in known.fields.values()}
    assert read - {name for name, _ in headers} == set(), "every header that we read is one that it writes"


def test_failures_that_differ_in_their_numbers_are_one_group() -> None:
    first, second, other = (
        decode_any(FakeRecord(headers=list((SPRING | {"kafka_dlt-exception-message": message}).items())))
        for message in (b"no id 4711 of deadbeef01", b"no id 12 of 0123456789ab", b"no name 4711")
    )
    assert first.fingerprint == second.fingerprint != other.fingerprint


def test_our_own_letters_are_read_as_ours_although_they_carry_the_names_of_kip_1191() -> None:
    ours = letter(4)
    assert decode_any(FakeRecord(ours.topic, 0, 4, ours.key, ours.value, ours.timestamp_ms, 0, ours.headers)) == ours


def test_a_record_that_says_nothing_is_shown_all_the_same() -> None:
    found = decode_any(FakeRecord(headers=[("x", b"y")]))
    assert (found.value, found.reason, found.source_topic, found.failed_at_ms) == (
        FakeRecord().value,
        None,
        None,
        FakeRecord().timestamp,
    )


@given(data=st.data())
def test_no_header_makes_reading_fail(data: st.DataObject) -> None:
    names = sorted({header for dialect in DIALECTS for header, _ in dialect.fields.values()} | set(SPRING))
    headers = data.draw(st.lists(st.tuples(st.sampled_from(names), st.none() | st.binary(max_size=12)), max_size=12))
    found = decode_any(FakeRecord(headers=headers))
    assert found.headers == tuple(headers)

"""Reading a dead letter back: everything that capture wrote, and patience with what others wrote."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters import headers as h
from app.dead_letters.decode import decode_dead_letter
from app.engine.api import Failure
from tests.dead_letters.records import FAILED_AT_MS, FakeRecord, encoder, replayed


def test_what_capture_wrote_is_read_again() -> None:
    failure = Failure("aggregate", "agent_error", "it broke", "parked", ValueError("x"))
    letter = encoder()(FakeRecord(), failure, FAILED_AT_MS)
    letter = encoder()(replayed(letter, offset=9, job="job-1"), failure, FAILED_AT_MS + 5)
    record = decode_dead_letter(FakeRecord(letter.topic, 3, 0, letter.key, letter.value, FAILED_AT_MS + 6, 0, letter.headers))

    assert record.id == "dlq.veltrix.interactions:3:0"
    assert record.dlq_id == "interactions:3:41"
    assert (record.source_topic, record.source_partition, record.source_offset) == ("interactions", 3, 41)
    assert (record.stage, record.reason, record.disposition) == ("aggregate", "agent_error", "parked")
    assert (record.message, record.exception_class, record.group) == ("it broke", "ValueError", "veltrix")
    assert (record.failed_at_ms, record.first_failed_at_ms) == (FAILED_AT_MS + 5, FAILED_AT_MS)
    assert (record.original_timestamp_ms, record.original_timestamp_type) == (1_699_999_999_000, "CreateTime")
    assert (record.app, record.app_version, record.host) == ("veltrix", "1.2.3", "pod-7")
    assert (record.replay_count, record.replay_job, record.delivery_count) == (1, "job-1", 2)
    assert [attempt.error_class for attempt in record.attempts] == ["ValueError", "ValueError"]
    assert record.value == b'{"type":"track"}'


@given(st.lists(st.tuples(st.sampled_from(sorted(h.MANAGED)) | st.text(max_size=5), st.none() | st.binary(max_size=20))))
def test_no_header_of_anybody_makes_a_record_unreadable(headers: list[tuple[str, bytes | None]]) -> None:
    record = decode_dead_letter(FakeRecord(headers=headers))

    assert record.headers == tuple(headers)
    assert isinstance(record.failed_at_ms, int)


def test_a_record_without_our_headers_has_nothing_but_kafkas_facts() -> None:
    record = decode_dead_letter(FakeRecord(value=None, key=None))

    assert (record.dlq_id, record.reason, record.attempts, record.replay_count) == (None, None, (), 0)
    assert record.failed_at_ms == record.timestamp_ms

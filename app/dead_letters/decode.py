"""A record of a dead letter queue as people read it."""

from __future__ import annotations

from app.dead_letters import headers as h
from app.dead_letters.api import DeadLetterRecord
from app.engine.api import Record


def decode_dead_letter(record: Record) -> DeadLetterRecord:
    """Never fails: headers that are absent or odd give None. Of repeated headers of ours the last one counts."""
    found = {name: value for name, value in record.headers if name in h.MANAGED and value is not None}

    def text(name: str) -> str | None:
        value = found.get(name)
        return None if value is None else value.decode(errors="replace")

    def number(name: str) -> int | None:
        return h.parse_int(found.get(name))

    failed_at = h.parse_rfc3339(found.get(h.FAILED_AT))
    return DeadLetterRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        dlq_id=text(h.ID),
        source_topic=text(h.TOPIC),
        source_partition=number(h.PARTITION),
        source_offset=number(h.OFFSET),
        group=text(h.GROUP),
        delivery_count=number(h.DELIVERY_COUNT),
        message=text(h.MESSAGE),
        disposition=text(h.DISPOSITION),
        stage=text(h.STAGE),
        reason=text(h.REASON),
        fingerprint=text(h.FINGERPRINT),
        exception_class=text(h.EXCEPTION_CLASS),
        stacktrace=text(h.EXCEPTION_STACKTRACE),
        failed_at_ms=record.timestamp if failed_at is None else failed_at,
        first_failed_at_ms=h.parse_rfc3339(found.get(h.FIRST_FAILED_AT)),
        original_timestamp_ms=number(h.ORIGINAL_TIMESTAMP),
        original_timestamp_type=text(h.ORIGINAL_TIMESTAMP_TYPE),
        app=text(h.APP),
        app_version=text(h.APP_VERSION),
        host=text(h.HOST),
        attempts=tuple(h.decode_attempts(found.get(h.ATTEMPTS))),
        replay_count=number(h.REPLAY_COUNT) or 0,
        replay_job=text(h.REPLAY_JOB),
        edited=text(h.EDITED),
        value_bytes=number(h.VALUE_BYTES),
    )

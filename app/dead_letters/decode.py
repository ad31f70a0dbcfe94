"""A record of a dead letter queue as people read it."""

from __future__ import annotations

from typing import Any, Final

from app.dead_letters import headers as h
from app.dead_letters.api import DeadLetterRecord
from app.engine.api import Record

#: Field of DeadLetterRecord -> header, by kind of value.
TEXTS: Final = {
    "dlq_id": h.ID,
    "source_topic": h.TOPIC,
    "group": h.GROUP,
    "message": h.MESSAGE,
    "disposition": h.DISPOSITION,
    "stage": h.STAGE,
    "reason": h.REASON,
    "fingerprint": h.FINGERPRINT,
    "exception_class": h.EXCEPTION_CLASS,
    "stacktrace": h.EXCEPTION_STACKTRACE,
    "original_timestamp_type": h.ORIGINAL_TIMESTAMP_TYPE,
    "app": h.APP,
    "app_version": h.APP_VERSION,
    "host": h.HOST,
    "replay_job": h.REPLAY_JOB,
    "edited": h.EDITED,
}
NUMBERS: Final = {
    "source_partition": h.PARTITION,
    "source_offset": h.OFFSET,
    "delivery_count": h.DELIVERY_COUNT,
    "original_timestamp_ms": h.ORIGINAL_TIMESTAMP,
    "value_bytes": h.VALUE_BYTES,
}


def decode_dead_letter(record: Record) -> DeadLetterRecord:
    """Never fails: headers that are absent or odd give None. Of repeated headers of ours the last one counts."""
    found = {name: value for name, value in record.headers if name in h.MANAGED and value is not None}
    fields: dict[str, Any] = {
        field: None if (value := found.get(name)) is None else value.decode(errors="replace") for field, name in TEXTS.items()
    }
    fields |= {field: h.parse_int(found.get(name)) for field, name in NUMBERS.items()}
    failed_at = h.parse_rfc3339(found.get(h.FAILED_AT))
    return DeadLetterRecord(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
        failed_at_ms=record.timestamp if failed_at is None else failed_at,
        first_failed_at_ms=h.parse_rfc3339(found.get(h.FIRST_FAILED_AT)),
        attempts=tuple(h.decode_attempts(found.get(h.ATTEMPTS))),
        replay_count=h.parse_int(found.get(h.REPLAY_COUNT)) or 0,
        **fields,
    )

"""Reading other systems' dead letters: each marks its records with headers of its own.

Names and encodings are those of the systems' sources: Kafka Connect (KIP-298), Kafka Streams (KIP-1034), share groups
(KIP-1191), Spring Kafka (numbers are big-endian binary), PostHog, Karafka, Jitsu, Arroyo. What a dialect does not say
stays None; nothing raises, since anybody may write a header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from app.dead_letters import headers as h
from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.decode import decode_dead_letter
from app.dead_letters.trace import fingerprint
from app.engine.api import Record

Read = Callable[[bytes], Any]


def text(raw: bytes) -> str:
    """UTF-8; what is none is shown with replacement characters."""
    return raw.decode(errors="replace")


def decimal(raw: bytes) -> int | None:
    """Digits."""
    return h.parse_int(raw)


def binary(raw: bytes) -> int | None:
    """A Java int or long as ``ByteBuffer`` writes it."""
    return int.from_bytes(raw, "big", signed=True) if len(raw) in (4, 8) else None


def moment(raw: bytes) -> int | None:
    """RFC 3339, or milliseconds as digits."""
    return h.parse_rfc3339(raw) if h.parse_int(raw) is None else h.parse_int(raw)


def first_line(raw: bytes) -> str:
    """Error texts may be pages."""
    return h.clip(text(raw).strip().split("\n", 1)[0], h.MAX_MESSAGE_BYTES).decode()


class Dialect(NamedTuple):
    """``marks``: a record has all of these headers. ``fields``: of a DeadLetterRecord, by header and how it is read."""

    name: str
    marks: frozenset[str]
    fields: Mapping[str, tuple[str, Read]]


def _dialect(name: str, prefix: str, marks: str, fields: Mapping[str, tuple[str, Read]]) -> Dialect:
    named = {field: (prefix + header, read) for field, (header, read) in fields.items()}
    return Dialect(name, frozenset(prefix + mark for mark in marks.split()), named)


def _place(
    read: Read = decimal, topic: str = "topic", partition: str = "partition", offset: str = "offset"
) -> dict[str, tuple[str, Read]]:
    return {"source_topic": (topic, text), "source_partition": (partition, read), "source_offset": (offset, read)}


DIALECTS: Final[tuple[Dialect, ...]] = (
    _dialect("connect", "__connect.errors.", "topic partition offset", {
        **_place(), "stage": ("stage", text), "exception_class": ("exception.class.name", text),
        "message": ("exception.message", first_line), "stacktrace": ("exception.stacktrace", text), "app": ("connector.name", text),
    }),
    _dialect("streams", "__streams.errors.", "topic partition offset", {
        **_place(), "exception_class": ("exception", text), "message": ("message", first_line), "stacktrace": ("stacktrace", text),
    }),
    _dialect("share-group", "__dlq.errors.", "topic partition offset", {
        **_place(), "group": ("group", text), "delivery_count": ("delivery.count", decimal), "message": ("message", first_line),
    }),
    _dialect("spring", "kafka_dlt-", "original-topic original-partition original-offset", {
        **_place(binary, "original-topic", "original-partition", "original-offset"),
        "original_timestamp_ms": ("original-timestamp", binary), "original_timestamp_type": ("original-timestamp-type", text),
        "group": ("original-consumer-group", text), "exception_class": ("exception-fqcn", text),
        "message": ("exception-message", first_line), "stacktrace": ("exception-stacktrace", text),
    }),
    _dialect("posthog", "dlq_", "topic partition offset", {
        **_place(), "reason": ("reason", first_line), "stage": ("step", text), "failed_at_ms": ("timestamp", moment),
        "group": ("consumer_group", text), "dlq_id": ("event_uuid", text), "replay_count": ("replay_count", decimal),
    }),
    _dialect("karafka", "source_", "topic partition offset", {
        **_place(), "group": ("consumer_group", text), "delivery_count": ("attempts", decimal),
    }),
    _dialect("jitsu", "", "error original_topic", {
        "source_topic": ("original_topic", text), "message": ("error", first_line), "delivery_count": ("retries", decimal),
        "app": ("function_id", text),
    }),
    _dialect("arroyo", "", "original_partition original_offset", {
        "source_partition": ("original_partition", decimal), "source_offset": ("original_offset", decimal),
    }),
)  # fmt: skip
#: Spring's exception is a wrapper of the listener container; the cause is what happened.
SPRING_CAUSE: Final = "kafka_dlt-exception-cause-fqcn"
SPRING_ATTEMPTS: Final = "retry_topic-attempts"
_NUMBERS: Final = re.compile(r"[0-9a-f]{8,}|\d+")


def decode_any(record: Record) -> DeadLetterRecord:
    """A dead letter of ours or of whoever wrote it. Never fails."""
    names = {name for name, _ in record.headers}
    if h.ID in names or h.DISPOSITION in names:
        return decode_dead_letter(record)
    dialect = next((dialect for dialect in DIALECTS if dialect.marks <= names), None)
    letter = decode_dead_letter(record)
    return letter if dialect is None else _translated(letter, dialect)


def _translated(letter: DeadLetterRecord, dialect: Dialect) -> DeadLetterRecord:
    found = {name: held for name, held in letter.headers if held is not None}  # of repeated ones the last, which is the newest
    fields: dict[str, Any] = {}
    for field, (header, read) in dialect.fields.items():
        value = read(found[header]) if header in found else None
        if value is not None:
            fields[field] = value
    if dialect.name == "spring":
        fields |= _spring(found)
    if "dlq_id" not in fields and fields.keys() >= {"source_topic", "source_partition", "source_offset"}:
        fields["dlq_id"] = f"{fields['source_topic']}:{fields['source_partition']}:{fields['source_offset']}"
    fields.setdefault("reason", fields.get("exception_class") or dialect.name)
    # Two texts that differ in their numbers alone are one failure.
    kind = str(fields.get("exception_class") or fields["reason"])
    place = _NUMBERS.sub("#", str(fields.get("message") or ""))
    fields["fingerprint"] = fingerprint(str(fields.get("stage") or dialect.name), kind, place).decode()
    return replace(letter, **fields)


def _spring(found: Mapping[str, bytes]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if SPRING_CAUSE in found:
        fields["exception_class"] = text(found[SPRING_CAUSE])
    if (attempts := binary(found.get(SPRING_ATTEMPTS, b""))) is not None:
        fields["delivery_count"] = attempts
    return fields

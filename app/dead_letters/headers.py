"""Names of the headers that Veltrix adds to a dead letter, and how their values are written.

All values are UTF-8 text, numbers decimal. The first six are those of KIP-1191 (share groups), in its order,
so that tools made for Kafka's own dead letter queues read ours. ``dlq.reason`` and ``dlq.value.bytes`` are our
additions to the format.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

TOPIC: Final = "__dlq.errors.topic"
PARTITION: Final = "__dlq.errors.partition"
OFFSET: Final = "__dlq.errors.offset"
GROUP: Final = "__dlq.errors.group"
DELIVERY_COUNT: Final = "__dlq.errors.delivery.count"
MESSAGE: Final = "__dlq.errors.message"

ID: Final = "dlq.id"
DISPOSITION: Final = "dlq.disposition"
STAGE: Final = "dlq.stage"
REASON: Final = "dlq.reason"
"""The named reason (``missing_message_id``): what metrics and runbooks call the defect."""
EXCEPTION_CLASS: Final = "dlq.exception.class"
"""Qualified name. Absent when the record was refused without an exception; likewise the trace."""
EXCEPTION_STACKTRACE: Final = "dlq.exception.stacktrace"
FINGERPRINT: Final = "dlq.fingerprint"
FAILED_AT: Final = "dlq.failed.at"
FIRST_FAILED_AT: Final = "dlq.first.failed.at"
ORIGINAL_TIMESTAMP: Final = "dlq.original.timestamp"
ORIGINAL_TIMESTAMP_TYPE: Final = "dlq.original.timestamp.type"
APP: Final = "dlq.app"
APP_VERSION: Final = "dlq.app.version"
HOST: Final = "dlq.host"
ATTEMPTS: Final = "dlq.attempts"
REPLAY_COUNT: Final = "dlq.replay.count"
REPLAY_JOB: Final = "dlq.replay.job"
"""Absent until the record is replayed."""
EDITED: Final = "dlq.edited"
"""Absent until the record is edited; then ``true`` and the patch id."""
VALUE_BYTES: Final = "dlq.value.bytes"
"""Only in a pointer record: size of the value that the queue could not take."""

TRACEPARENT: Final = "dlq.traceparent"
"""Only when the failed attempt was recorded in a trace: its W3C context. The producer's own ``traceparent`` is another header."""

RETRY_DUE: Final = "dlq.retry.due"
"""Only in a retry tier: when the record is tried again, epoch ms."""
RETRY_ATTEMPT: Final = "dlq.retry.attempt"
"""Only in a retry tier: how often it has failed; 0 for what only waits behind another event of its key."""
DISCARDED: Final = "dlq.discarded"
"""Only in a retry tier: this is no event, it says that the one of that ``dlq.id`` was discarded. Nobody has to wait for it."""

#: Written by us on every capture, so never copied from the incoming record as they are.
MANAGED: Final = frozenset(
    {
        TOPIC, PARTITION, OFFSET, GROUP, DELIVERY_COUNT, MESSAGE, ID, DISPOSITION, STAGE, REASON, EXCEPTION_CLASS,
        EXCEPTION_STACKTRACE, FINGERPRINT, FAILED_AT, FIRST_FAILED_AT, ORIGINAL_TIMESTAMP, ORIGINAL_TIMESTAMP_TYPE, APP,
        APP_VERSION, HOST, ATTEMPTS, REPLAY_COUNT, REPLAY_JOB, EDITED, VALUE_BYTES, TRACEPARENT, RETRY_DUE, RETRY_ATTEMPT, DISCARDED,
    }
)  # fmt: skip

MAX_MESSAGE_BYTES: Final = 1024
MAX_STACKTRACE_BYTES: Final = 8 * 1024
MAX_ATTEMPTS: Final = 5

#: Kafka's names of ``timestamp_type``.
TIMESTAMP_TYPES: Final = {0: b"CreateTime", 1: b"LogAppendTime"}
NO_TIMESTAMP: Final = b"NoTimestampType"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Attempt(msgspec.Struct, frozen=True, rename={"error_class": "class"}):
    """One failed attempt at a record. ``error_class``: the exception's name, else the reason."""

    at: str
    stage: str
    error_class: str


_attempts_decoder = msgspec.json.Decoder(list[Attempt])
encode_attempts = msgspec.json.Encoder().encode


def decode_attempts(raw: bytes | None) -> list[Attempt]:
    """Earlier attempts, oldest first; none when the header is absent or not ours."""
    if raw is None:
        return []
    try:
        return _attempts_decoder.decode(raw)
    except msgspec.MsgspecError:  # another system's header, or an edited one: the record itself is still good
        return []


def rfc3339(epoch_ms: int) -> str:
    """``1700000000123`` as ``2023-11-14T22:13:20.123Z``."""
    return (_EPOCH + timedelta(milliseconds=epoch_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_rfc3339(raw: bytes | None) -> int | None:
    """Inverse of :func:`rfc3339`; None when absent or not such a text."""
    if raw is None:
        return None
    try:
        at = datetime.fromisoformat(raw.decode())
    except ValueError:
        return None
    return (at - _EPOCH) // timedelta(milliseconds=1) if at.tzinfo else None


def parse_int(raw: bytes | None) -> int | None:
    """A decimal number, or None when absent or anything else."""
    text = (raw or b"").strip()
    return int(text) if text.removeprefix(b"-").isdigit() and len(text) <= 20 else None


def clip(text: str, limit: int) -> bytes:
    """UTF-8 of at most ``limit`` bytes from the start, cut between characters."""
    raw = text.encode(errors="replace")
    return raw if len(raw) <= limit else raw[:limit].decode(errors="ignore").encode()


def clip_start(text: str, limit: int) -> bytes:
    """UTF-8 of at most ``limit`` bytes from the end, cut between characters."""
    raw = text.encode(errors="replace")
    return raw if len(raw) <= limit else raw[-limit:].decode(errors="ignore").encode()

"""How dead letters look as JSON. Bytes are shown as base64, as text when they are UTF-8, and parsed when they are JSON."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import orjson
from pydantic import BaseModel

from app.dead_letters.api import DeadLetterRecord, Page, QueueSummary
from app.dead_letters.headers import rfc3339


class QueueView(BaseModel):
    """One queue. Times are RFC 3339 in UTC, null when the queue is empty."""

    name: str
    partitions: int
    count: int
    oldest_failed_at: str | None
    newest_failed_at: str | None
    oldest_expires_at: str | None
    retention_ms: int
    statuses: dict[str, int] | None
    """By status; null, as what follows, where there is no index"""
    open: int | None
    oldest_pending_at: str | None
    per_minute: float | None
    top_fingerprints: list[str] | None


class QueuesView(BaseModel):
    """All queues."""

    queues: list[QueueView]


class BytesView(BaseModel):
    """Bytes for people: `text` and `parsed` are null where they do not apply."""

    size: int
    base64: str
    text: str | None
    parsed: Any = None


class SourceView(BaseModel):
    """Where the record was when it failed first."""

    topic: str | None
    partition: int | None
    offset: int | None
    timestamp: str | None
    timestamp_type: str | None


class AttemptView(BaseModel):
    """One failed attempt; `error` is the exception's name, else the reason."""

    at: str
    stage: str
    error: str


class RecordSummary(BaseModel):
    """A dead letter without its payload. Null: the header is absent or not in our format."""

    id: str
    status: str | None
    dlq_id: str | None
    key: str | None
    value_size: int | None
    stage: str | None
    reason: str | None
    disposition: str | None
    message: str | None
    fingerprint: str | None
    exception_class: str | None
    failed_at: str | None
    first_failed_at: str | None
    source: SourceView
    delivery_count: int | None
    replay_count: int
    app: str | None
    app_version: str | None
    host: str | None


class RecordView(RecordSummary):
    """A dead letter with everything it holds. `headers` are `[name, text, base64]`, in order, repeats included."""

    key_bytes: BytesView | None
    value: BytesView | None
    headers: list[tuple[str, str | None, str | None]]
    stacktrace: str | None
    attempts: list[AttemptView]
    group: str | None
    replay_job: str | None
    edited: str | None


class PageView(BaseModel):
    """Some records, newest first. A page may be short, even empty, before the end: go by `next_cursor`."""

    records: list[RecordSummary]
    next_cursor: str | None
    scanned: int


def queue_view(queue: QueueSummary) -> QueueView:
    """``queue`` as JSON."""
    return QueueView(
        name=queue.name,
        partitions=queue.partitions,
        count=queue.count,
        oldest_failed_at=_time(queue.oldest_failed_at_ms),
        newest_failed_at=_time(queue.newest_failed_at_ms),
        oldest_expires_at=_time(queue.oldest_expires_at_ms),
        retention_ms=queue.retention_ms,
        statuses=None if queue.statuses is None else dict(queue.statuses),
        open=queue.open,
        oldest_pending_at=_time(queue.oldest_pending_ms),
        per_minute=queue.per_minute,
        top_fingerprints=None if queue.statuses is None else [group.fingerprint for group in queue.top_groups],
    )


def page_view(page: Page) -> PageView:
    """``page`` as JSON."""
    records = [RecordSummary.model_validate(_summary(record)) for record in page.records]
    return PageView(records=records, next_cursor=page.next_cursor, scanned=page.scanned)


def record_view(record: DeadLetterRecord) -> RecordView:
    """``record`` as JSON, with payload and headers."""
    whole = _summary(record) | {
        "key_bytes": bytes_view(record.key),
        "value": bytes_view(record.value),
        "headers": [(name, _text(held), _base64(held)) for name, held in record.headers],
        "stacktrace": record.stacktrace,
        "attempts": [{"at": a.at, "stage": a.stage, "error": a.error_class} for a in record.attempts],
        "group": record.group,
        "replay_job": record.replay_job,
        "edited": record.edited,
    }
    return RecordView.model_validate(whole)


def bytes_view(raw: bytes | None) -> BytesView | None:
    """``raw`` for people; None stays None, since Kafka tells null from empty."""
    if raw is None:
        return None
    return BytesView(size=len(raw), base64=b64encode(raw).decode(), text=_text(raw), parsed=_parsed(raw))


def _summary(record: DeadLetterRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "status": record.status,
        "dlq_id": record.dlq_id,
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "value_size": record.value_bytes if record.value is None else len(record.value),
        "stage": record.stage,
        "reason": record.reason,
        "disposition": record.disposition,
        "message": record.message,
        "fingerprint": record.fingerprint,
        "exception_class": record.exception_class,
        "failed_at": _time(record.failed_at_ms),
        "first_failed_at": _time(record.first_failed_at_ms),
        "source": _source(record),
        "delivery_count": record.delivery_count,
        "replay_count": record.replay_count,
        "app": record.app,
        "app_version": record.app_version,
        "host": record.host,
    }


def _source(record: DeadLetterRecord) -> dict[str, Any]:
    return {
        "topic": record.source_topic,
        "partition": record.source_partition,
        "offset": record.source_offset,
        "timestamp": _time(record.original_timestamp_ms),
        "timestamp_type": record.original_timestamp_type,
    }


def _time(epoch_ms: int | None) -> str | None:
    try:
        return None if epoch_ms is None else rfc3339(epoch_ms)
    except OverflowError:  # a made-up header: no date, but the record is shown all the same
        return None


def _text(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else b64encode(raw).decode()


def _parsed(raw: bytes) -> Any:
    """The JSON in ``raw``, if it is JSON that can be written again (not nested beyond reason); else None."""
    try:
        parsed = orjson.loads(raw)
        orjson.dumps(parsed)
    except (ValueError, TypeError):
        return None
    return parsed

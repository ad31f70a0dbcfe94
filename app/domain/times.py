"""Event time and broker time, both UTC epoch milliseconds. No clock: everything comes from the record."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from app.domain.events import Event

#: Set on a replayed dead letter: the broker time of the first attempt, epoch ms as decimal text.
ORIGINAL_TIMESTAMP_HEADER: Final = "dlq.original.timestamp"

_UNITS: Final = (("days", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_parse: Final = datetime.fromisoformat


class BadTimestamp(Exception):
    """A time field that is needed is not ISO 8601. Carries the field's name, not its text."""

    def __init__(self, field: str) -> None:
        super().__init__(f"`{field}` is not an ISO 8601 date and time")
        self.field = field


def epoch_ms(text: str, field: str) -> int:
    """Milliseconds since the epoch of an ISO 8601 text; without an offset it is UTC.

    Raises:
        BadTimestamp: it does not parse.
    """
    try:
        moment = _parse(text)
        delta = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)) - _EPOCH
    except (ValueError, OverflowError) as exc:
        raise BadTimestamp(field) from exc
    return delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000


def event_time_ms(event: Event, record_ms: int) -> int:
    """When it happened: ``timestamp``; else ``originalTimestamp`` with the sender's clock corrected by
    ``receivedAt - sentAt``; else ``receivedAt``; else the record's own timestamp.

    Without ``receivedAt`` the record's timestamp takes its place, as the time of the first server that we know of.

    Raises:
        BadTimestamp: a field that this rule needs does not parse; the others are not looked at.
    """
    if event.timestamp is not None:
        return epoch_ms(event.timestamp, "timestamp")
    received_ms = record_ms if event.received_at is None else epoch_ms(event.received_at, "receivedAt")
    if event.original_timestamp is None or event.sent_at is None:
        return received_ms
    return epoch_ms(event.original_timestamp, "originalTimestamp") + received_ms - epoch_ms(event.sent_at, "sentAt")


def broker_time_ms(timestamp_ms: int, headers: Sequence[tuple[str, bytes | None]]) -> int:
    """The time that limits are measured against: the record's, on a replay that of the first attempt.

    An unreadable header counts as absent: it must not let a record pass or fail by accident of its text.
    """
    for name, value in headers:
        if name == ORIGINAL_TIMESTAMP_HEADER and value is not None and value.isdigit() and len(value) <= 15:
            return int(value)
    return timestamp_ms


def in_words(ms: int) -> str:
    """A duration as people say it: in its largest unit, to a tenth, and in ms below a second."""
    for unit, unit_ms in _UNITS:
        if ms >= unit_ms:
            return f"{ms / unit_ms:.1f}".removesuffix(".0") + f" {unit}"
    return f"{ms} ms"

"""Where a record that fails again comes from: the part of its story that must outlive replays and retries.

First-original, last-exception: identity, first failure and original time are those of the first failure, everything
about the failure itself is that of the last one, and no header is ever written twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.dead_letters import headers as h
from app.engine.api import Header, Record

#: Headers are anybody's to write: longer ones than we ever write are not ours, and would make a dead letter grow.
MAX_TEXT_BYTES: Final = 256
MAX_ATTEMPTS_BYTES: Final = 4096

Headers = Sequence[Header]


class Origin(NamedTuple):
    """Coordinates of the record that failed first; its text is the ``dlq.id``."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What an incoming record says about its earlier failures."""

    origin: Origin
    first_failed_at: bytes | None
    original_timestamp: bytes | None
    original_timestamp_type: bytes | None
    deliveries: int
    attempts: list[h.Attempt]
    replay_count: int
    replay_job: bytes | None
    edited: bytes | None


def parse_origin(text: str) -> Origin | None:
    """``topic:partition:offset``, or None. Topic names hold no colon."""
    parts = text.split(":")
    if len(parts) != 3 or not parts[0] or not all(part.isascii() and part.isdigit() and len(part) < 20 for part in parts[1:]):
        return None
    return Origin(parts[0], int(parts[1]), int(parts[2]))


def split_headers(record: Record, sources: Collection[str]) -> tuple[Headers, Lineage | None]:
    """The record's own headers (all, in order, repeats and nulls kept), and its lineage when it failed before.

    Whoever may write to a source topic can invent ``dlq.*`` headers; a lineage counts only if it begins in one of
    ``sources``, so that no header leads a later replay to a topic of somebody else.
    """
    found: dict[str, bytes | None] = {}
    own: list[Header] = []
    for name, value in record.headers:
        if name in h.MANAGED:
            found.setdefault(name, value)
        else:
            own.append((name, value))
    return own, _lineage(found, sources) if found else None


def _lineage(found: Mapping[str, bytes | None], sources: Collection[str]) -> Lineage | None:
    origin = parse_origin((found.get(h.ID) or b"").decode(errors="replace"))
    if origin is None or origin.topic not in sources:
        return None
    replays = max(0, h.parse_int(found.get(h.REPLAY_COUNT)) or 0)
    first = _short(found.get(h.FIRST_FAILED_AT))
    timestamp = found.get(h.ORIGINAL_TIMESTAMP)
    return Lineage(
        origin=origin,
        first_failed_at=first if h.parse_rfc3339(first) is not None else None,
        original_timestamp=timestamp if h.parse_int(timestamp) is not None else None,
        original_timestamp_type=_short(found.get(h.ORIGINAL_TIMESTAMP_TYPE)),
        deliveries=max(replays, h.parse_int(found.get(h.DELIVERY_COUNT)) or 0),
        attempts=h.decode_attempts(_short(found.get(h.ATTEMPTS), MAX_ATTEMPTS_BYTES)),
        replay_count=replays,
        replay_job=_short(found.get(h.REPLAY_JOB)),
        edited=_short(found.get(h.EDITED)),
    )


def _short(value: bytes | None, limit: int = MAX_TEXT_BYTES) -> bytes | None:
    return value if value is not None and len(value) <= limit else None

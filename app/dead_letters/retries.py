"""Retry tiers: when and where a record that failed for a passing reason is tried again.

Each tier is a topic beside the source: ``retry.<app>.<source>.<delay>``. A record moves from one to the next, stays in
the last one, and becomes a dead letter when it was tried often or long enough. The time to wait is spread by a fifth,
so that what failed together does not come back together. What a record has been through is in its headers, the same
as a dead letter has: the partition's state knows nothing of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self

import msgspec

from app.dead_letters import headers as h
from app.dead_letters.lineage import parse_origin
from app.engine.api import Record, Retry
from app.settings import Settings
from app.topics import RetryTier, retry_tiers

#: Due times are spread by this share of the delay, to both sides.
JITTER: Final = 0.2

_TYPES: Final = {name: number for number, name in h.TIMESTAMP_TYPES.items()}


class WaitedRecord(msgspec.Struct, gc=False):
    """A record out of a tier (see :class:`app.engine.api.Record`): the tier's coordinates, the source's timestamp."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


class TieredRetries:
    """The tiers of one source (``app.engine.api.Retries``).

    Args:
        source: whose records wait here.
        tiers: in the order in which a record meets them; at least one.
        max_attempts: failures after which a record is given up.
        give_up_ms: or so long after its first failure.
        spread: a number from 0 to 1 at random.
    """

    def __init__(
        self,
        source: str,
        tiers: Sequence[RetryTier],
        max_attempts: int,
        give_up_ms: int,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self.source = source
        self.topics = tuple(tier.topic for tier in tiers)
        self._tiers = tuple(tiers)
        self._max_attempts = max_attempts
        self._give_up_ms = give_up_ms
        self._spread = spread

    @classmethod
    def of(cls, settings: Settings, source: str) -> Self | None:
        """As configured; None: this source has no tiers."""
        tiers = retry_tiers(settings, source)
        return cls(source, tiers, settings.retry_max_attempts, settings.retry_give_up_ms) if tiers else None

    def plan(self, record: Record, now_ms: int) -> Retry | None:
        """See :class:`app.engine.api.Retries`. Headers count in our own topics alone: to the source anybody writes."""
        found = _headers(record) if record.topic in self.topics else {}
        attempt = 1 + max(0, h.parse_int(found.get(h.RETRY_ATTEMPT)) or 0)
        first_ms = h.parse_rfc3339(found.get(h.FIRST_FAILED_AT))
        if attempt > self._max_attempts or (first_ms is not None and now_ms - first_ms >= self._give_up_ms):
            return None
        return self._in(self._tiers[min(attempt, len(self._tiers)) - 1], now_ms, attempt)

    def wait(self, record: Record, now_ms: int) -> Retry | None:
        """See :class:`app.engine.api.Retries`. The longer it has waited, the less often it is looked at."""
        found = _headers(record) if record.topic in self.topics else {}
        first_ms = h.parse_rfc3339(found.get(h.FIRST_FAILED_AT))
        waited_ms = 0 if first_ms is None else now_ms - first_ms
        if waited_ms >= self._give_up_ms:
            return None
        tier = next((tier for tier in reversed(self._tiers) if tier.delay_ms <= waited_ms), self._tiers[0])
        return self._in(tier, now_ms, max(0, h.parse_int(found.get(h.RETRY_ATTEMPT)) or 0))

    def _in(self, tier: RetryTier, now_ms: int, attempt: int) -> Retry:
        delay_ms = tier.delay_ms * (1 - JITTER + 2 * JITTER * self._spread())
        return Retry(tier.topic, now_ms + int(delay_ms), attempt)

    def origin(self, record: Record) -> int:
        """See :class:`app.engine.api.Retries`. Below 0 for a record of a tier that does not tell."""
        origin = parse_origin((_headers(record).get(h.ID) or b"").decode(errors="replace")) if record.headers else None
        if origin is not None and (origin.topic, origin.partition) == (self.source, record.partition):
            return origin.offset
        return record.offset if record.topic == self.source else -1 - record.offset

    def is_release(self, record: Record) -> bool:
        """See :class:`app.engine.api.Retries`."""
        return record.topic in self.topics and h.DISCARDED in _headers(record)

    def arrived(self, record: Record) -> tuple[int, Record]:
        """See :class:`app.engine.api.Retries`. Without a header that says when, it is due."""
        found = _headers(record)
        timestamp = h.parse_int(found.get(h.ORIGINAL_TIMESTAMP))
        restored = WaitedRecord(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp if timestamp is None else timestamp,
            _TYPES.get(found.get(h.ORIGINAL_TIMESTAMP_TYPE) or b"", record.timestamp_type),
            record.key,
            record.value,
            record.headers,
        )
        return h.parse_int(found.get(h.RETRY_DUE)) or 0, restored


def _headers(record: Record) -> Mapping[str, bytes | None]:
    """Ours; of repeated ones the first, as everywhere."""
    found: dict[str, bytes | None] = {}
    for name, value in record.headers:
        if name in h.MANAGED:
            found.setdefault(name, value)
    return found

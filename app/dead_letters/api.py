"""What readers of dead letters get: queues, records, pages, filters, and how reading can fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

from app.dead_letters.headers import Attempt


class UnknownQueue(Exception):
    """The topic is none of this application's dead letter queues. Nothing else may be read."""

    def __init__(self, queue: str) -> None:
        super().__init__(f"{queue!r} is not a dead letter queue of this application")
        self.queue = queue


class UnknownRecord(Exception):
    """There is no such dead letter, or no such group of them."""

    @classmethod
    def letter(cls, record_id: str) -> Self:
        """Kafka holds no dead letter of this id."""
        return cls(f"Kafka holds no dead letter {record_id}; retention may have taken it.")


class InvalidQuery(Exception):
    """The id, cursor or limit is not well formed. The message says what is expected."""


class DeadLettersUnavailable(Exception):
    """Kafka does not answer, or the queue's topic does not exist (``veltrix topics check``). Try again later."""


@dataclass(frozen=True, slots=True)
class DeadLetterRecord:
    """One dead letter. Decoded headers are None when absent or not in our format: other tools write here too."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    """Kafka's timestamp of the dead letter: when it failed"""
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """All of them, in order, as they are"""
    dlq_id: str | None
    """Coordinates of the first failure: stable over replays"""
    source_topic: str | None
    source_partition: int | None
    source_offset: int | None
    group: str | None
    delivery_count: int | None
    message: str | None
    disposition: str | None
    stage: str | None
    reason: str | None
    fingerprint: str | None
    exception_class: str | None
    stacktrace: str | None
    failed_at_ms: int
    """Of the header, else of the record"""
    first_failed_at_ms: int | None
    original_timestamp_ms: int | None
    original_timestamp_type: str | None
    app: str | None
    app_version: str | None
    host: str | None
    attempts: tuple[Attempt, ...]
    replay_count: int
    replay_job: str | None
    edited: str | None
    value_bytes: int | None
    """Size of the value that is not here: of a pointer record, or of one out of the index"""
    status: str | None = None
    """What was done about it (``app.dead_letters.index.states``); None: not looked up"""

    @property
    def id(self) -> str:
        """``<topic>:<partition>:<offset>`` of the dead letter itself."""
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Group:
    """All dead letters of one kind of failure. Times are epoch ms."""

    queue: str
    fingerprint: str
    counts: Mapping[str, int]
    """by status"""
    first_failed_at_ms: int
    last_failed_at_ms: int
    first_version: str | None
    """of the application, when it failed first"""
    stage: str | None
    reason: str | None
    exception_class: str | None
    message: str | None
    sample: str | None
    """id of the newest one"""
    note: str | None
    owner: str | None
    muted_until: str | None

    @property
    def count(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """One queue right now. Times are epoch ms, None when it is empty."""

    name: str
    partitions: int
    count: int
    """Records that Kafka still holds"""
    oldest_failed_at_ms: int | None
    newest_failed_at_ms: int | None
    retention_ms: int
    statuses: Mapping[str, int] | None = None
    """Records by status; this and what follows is known to an index alone"""
    open: int | None = None
    """Records that somebody still has to do something about"""
    oldest_pending_ms: int | None = None
    per_minute: float | None = None
    """New ones, of the last minutes"""
    top_groups: tuple[Group, ...] = ()
    """The largest with pending records"""

    @property
    def oldest_expires_at_ms(self) -> int | None:
        """When retention takes the oldest record, at the earliest."""
        return None if self.oldest_failed_at_ms is None else self.oldest_failed_at_ms + self.retention_ms


@dataclass(frozen=True, slots=True)
class Filters:
    """Only records that match all of what is set. Times bound Kafka's timestamp: ``[failed_after, failed_before)``."""

    stage: str | None = None
    reason: str | None = None
    disposition: str | None = None
    fingerprint: str | None = None
    exception_class: str | None = None
    app_version: str | None = None
    key: bytes | None = None
    failed_after_ms: int | None = None
    failed_before_ms: int | None = None
    status: str | None = None
    query: str | None = None
    """Words to search for; an index alone can do that, and know the status"""

    def match(self, record: DeadLetterRecord) -> bool:
        """Whether ``record`` passes."""
        if self.key is not None and record.key != self.key:
            return False
        if self.failed_after_ms is not None and record.timestamp_ms < self.failed_after_ms:
            return False
        if self.failed_before_ms is not None and record.timestamp_ms >= self.failed_before_ms:
            return False
        wanted = (self.stage, self.reason, self.disposition, self.fingerprint, self.exception_class, self.app_version)
        found = (record.stage, record.reason, record.disposition, record.fingerprint, record.exception_class, record.app_version)
        return all(want is None or want == have for want, have in zip(wanted, found, strict=True))


@dataclass(frozen=True, slots=True)
class Page:
    """Records, newest first. ``next_cursor`` is None at the end; a page may be short, even empty, before the end."""

    records: tuple[DeadLetterRecord, ...]
    next_cursor: str | None
    scanned: int
    """Records looked at to find these"""


class DeadLetters(Protocol):
    """Reading dead letters: what the sidecar and the command line need."""

    async def queues(self) -> list[QueueSummary]: ...

    async def records(self, queue: str, limit: int = 50, cursor: str | None = None, filters: Filters | None = None) -> Page: ...

    async def record(self, record_id: str) -> DeadLetterRecord | None: ...

"""The dead letter of a record: original key, value and headers untouched, and why it was parked.

Most of a dead letter's headers are equal for many records of a flood (same worker, same defect), so they are built
once and kept. What the queue's topic cannot take becomes a pointer: no value, disposition ``oversize``, and the
coordinates under which the source topic still has it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.dead_letters import headers as h
from app.dead_letters.lineage import Lineage, split_headers
from app.dead_letters.trace import Described, describe, fingerprint, shape_of
from app.engine.api import Failure, Header, Output, Record, Retry
from app.settings import Settings
from app.topics import DLQ_HEADROOM_BYTES, INTERACTIONS, SOURCE_MAX_MESSAGE_BYTES, dead_letters_of

#: Broker limit of a dead letter queue (``max.message.bytes``), as app.topics creates it.
MAX_RECORD_BYTES: Final = SOURCE_MAX_MESSAGE_BYTES + DLQ_HEADROOM_BYTES
#: Header of a RecordBatch, and the variable-length integers of one record at their longest.
BATCH_OVERHEAD_BYTES: Final = 61 + 36
HEADER_OVERHEAD_BYTES: Final = 10
_FIRST_DELIVERY: Final[Header] = (h.DELIVERY_COUNT, b"1")
_NO_REPLAY: Final[Header] = (h.REPLAY_COUNT, b"0")
_TIMESTAMP_TYPES: Final = {number: (h.ORIGINAL_TIMESTAMP_TYPE, name) for number, name in h.TIMESTAMP_TYPES.items()}
_NO_TIMESTAMP_TYPE: Final[Header] = (h.ORIGINAL_TIMESTAMP_TYPE, h.NO_TIMESTAMP)
#: Kinds of failure kept ready. More than any pipeline has; a bound, since class names come from user code.
MAX_KINDS: Final = 512


class UnknownSource(Exception):
    """A record of a topic that has no dead letter queue: the topic is missing in the encoder's ``sources``."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"no dead letter queue for records of {topic}: declare it as a source of the dead letter encoder")
        self.topic = topic


@dataclass(slots=True)
class _Kind:
    """Headers that all records share which fail in one way; ``tail`` is all of them, and those about us."""

    headers: tuple[Header, ...]
    tail: tuple[Header, ...]
    error_class: str
    attempt_tail: bytes
    _attempt: tuple[bytes, Header] = (b"", (h.ATTEMPTS, None))

    def attempt(self, at: bytes) -> Header:
        """The one attempt, at that time, of a record that has failed once. The last one is kept."""
        if self._attempt[0] != at:
            self._attempt = (at, (h.ATTEMPTS, b'[{"at":"%b",%b]' % (at, self.attempt_tail)))
        return self._attempt[1]


@dataclass(frozen=True, slots=True)
class _Place:
    """Headers that all records of one partition share."""

    topic: Header
    partition: Header
    id_prefix: bytes


@dataclass(frozen=True, slots=True)
class _Moment:
    """Headers that all records share which fail for the first time in one millisecond."""

    epoch_ms: int
    text: bytes
    failed_at: Header
    first_failed_at: Header

    @classmethod
    def of(cls, epoch_ms: int) -> _Moment:
        text = h.rfc3339(epoch_ms).encode()
        return cls(epoch_ms, text, (h.FAILED_AT, text), (h.FIRST_FAILED_AT, text))


class DeadLetterRecordEncoder:
    """Builds dead letters (``app.engine.api.DeadLetterEncoder``). Not for several threads.

    Args:
        settings: names, version and whether traces are written.
        sources: source topic -> its queue; by default the one of ``interactions``.
        retried: topic of a retry tier -> the source whose records wait in it.
        group: consumer group that failed; by default the application id.
        max_bytes: what the queue's topic takes.
    """

    def __init__(
        self,
        settings: Settings,
        sources: Mapping[str, str] | None = None,
        group: str | None = None,
        max_bytes: int = MAX_RECORD_BYTES,
        retried: Mapping[str, str] | None = None,
    ) -> None:
        self._sources = dict(sources or {INTERACTIONS: dead_letters_of(settings.app_id, INTERACTIONS)})
        self._queues = self._sources | {tier: self._sources[source] for tier, source in (retried or {}).items()}
        self._stacktraces = settings.dlq_stacktraces
        self._max_bytes = max_bytes
        self._group: Header = (h.GROUP, (group or settings.app_id).encode())
        self._about_us: tuple[Header, ...] = (
            (h.APP, settings.app_id.encode()),
            (h.APP_VERSION, settings.app_version.encode()),
            (h.HOST, (settings.worker_id or socket.gethostname()).encode()),
        )
        self._kinds: dict[object, _Kind] = {}
        self._places: dict[tuple[str, int], _Place] = {}
        self._moment = _Moment.of(0)

    def __call__(self, record: Record, failure: Failure, failed_at_ms: int, retry: Retry | None = None) -> Output:
        """The dead letter of ``record``, which failed at ``failed_at_ms`` (epoch ms); with ``retry``, what waits in its tier.

        Raises:
            UnknownSource: the record's topic has no queue.
        """
        queue = self._queues.get(record.topic)
        if queue is None:
            raise UnknownSource(record.topic)
        own, lineage = split_headers(record, self._sources) if record.headers else ((), None)
        kind = self._kind(failure)
        moment = self._at(failed_at_ms)
        about = (
            self._about(record, failure, kind, moment) if lineage is None else self._again(record, failure, kind, lineage, moment)
        )
        if failure.traceparent:
            about = (*about, (h.TRACEPARENT, failure.traceparent))
        key, value = record.key, record.value
        if retry is not None:  # always fits: a tier's topic takes as much as the queue, and there is no trace
            when = ((h.RETRY_DUE, b"%d" % retry.due_ms), (h.RETRY_ATTEMPT, b"%d" % retry.attempt))
            return Output(retry.topic, key, value, (*own, *about, *kind.headers, *self._about_us, *when))
        whole = (*own, *about, *kind.tail)
        # Our own headers are bounded well below the headroom; they need no count.
        small = not own and len(key or b"") + len(value or b"") <= self._max_bytes - DLQ_HEADROOM_BYTES
        if small or self._fits(key, value, whole):
            return Output(queue, key, value, whole)
        return self._squeezed(queue, record, own, (*about, *kind.headers, *self._about_us))

    def _about(self, record: Record, failure: Failure, kind: _Kind, moment: _Moment) -> tuple[Header, ...]:
        """Headers that differ from record to record, and all that stand between them. A flood is made of these."""
        place = self._places.get((record.topic, record.partition)) or self._new_place(record.topic, record.partition)
        offset = b"%d" % record.offset
        return (
            place.topic,
            place.partition,
            (h.OFFSET, offset),
            self._group,
            _FIRST_DELIVERY,
            (h.MESSAGE, _message(failure)),
            (h.ID, place.id_prefix + offset),
            moment.failed_at,
            moment.first_failed_at,
            (h.ORIGINAL_TIMESTAMP, b"%d" % record.timestamp),
            _TIMESTAMP_TYPES.get(record.timestamp_type, _NO_TIMESTAMP_TYPE),
            kind.attempt(moment.text),
            _NO_REPLAY,
        )

    def _again(self, record: Record, failure: Failure, kind: _Kind, past: Lineage, moment: _Moment) -> tuple[Header, ...]:
        """The same for a record that failed before: first-original, last-exception."""
        origin, at = past.origin, moment.text
        attempts = [*past.attempts, h.Attempt(at.decode(), failure.stage, kind.error_class)][-h.MAX_ATTEMPTS :]
        kept = ((h.REPLAY_JOB, past.replay_job), (h.EDITED, past.edited))
        timestamp = past.original_timestamp or b"%d" % record.timestamp
        return (
            (h.TOPIC, origin.topic.encode()),
            (h.PARTITION, b"%d" % origin.partition),
            (h.OFFSET, b"%d" % origin.offset),
            self._group,
            (h.DELIVERY_COUNT, b"%d" % (past.deliveries + 1)),
            (h.MESSAGE, _message(failure)),
            (h.ID, str(origin).encode()),
            (h.FAILED_AT, at),
            (h.FIRST_FAILED_AT, past.first_failed_at or at),
            (h.ORIGINAL_TIMESTAMP, timestamp),
            (
                h.ORIGINAL_TIMESTAMP_TYPE,
                past.original_timestamp_type or h.TIMESTAMP_TYPES.get(record.timestamp_type, h.NO_TIMESTAMP),
            ),
            (h.ATTEMPTS, h.encode_attempts(attempts)),
            (h.REPLAY_COUNT, b"%d" % past.replay_count),
            *((name, value) for name, value in kept if value is not None),
        )

    def _kind(self, failure: Failure) -> _Kind:
        exception = failure.exception
        shape = None if exception is None else shape_of(exception)
        key = (failure.stage, failure.reason, failure.disposition, shape)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds[key] = self._new_kind(failure, None if exception is None else describe(exception))
        return kind

    def _new_kind(self, failure: Failure, described: Described | None) -> _Kind:
        error_class = failure.reason if described is None else described.name
        headers: list[Header] = [
            (h.DISPOSITION, failure.disposition.encode()),
            (h.STAGE, failure.stage.encode()),
            (h.REASON, failure.reason.encode()),
            (h.FINGERPRINT, fingerprint(failure.stage, error_class, "" if described is None else described.frame)),
        ]
        stacktrace: tuple[Header, ...] = ()
        if described is not None:
            headers.append((h.EXCEPTION_CLASS, described.name.encode(errors="replace")))
            if self._stacktraces:
                stacktrace = ((h.EXCEPTION_STACKTRACE, described.stacktrace),)
        # An attempt's JSON without its time, which is all that differs between records of this kind.
        tail = h.encode_attempts(h.Attempt("", failure.stage, error_class)).removeprefix(b'{"at":"",')
        return _Kind(tuple(headers), (*headers, *stacktrace, *self._about_us), error_class, tail)

    def _new_place(self, topic: str, partition: int) -> _Place:
        name, number = topic.encode(), b"%d" % partition
        place = _Place((h.TOPIC, name), (h.PARTITION, number), b"%b:%b:" % (name, number))
        self._places[topic, partition] = place
        return place

    def _at(self, epoch_ms: int) -> _Moment:
        """A batch fails at one moment, so the last one is kept."""
        if self._moment.epoch_ms != epoch_ms:
            self._moment = _Moment.of(epoch_ms)
        return self._moment

    def _fits(self, key: bytes | None, value: bytes | None, headers: Sequence[Header]) -> bool:
        room = self._max_bytes - BATCH_OVERHEAD_BYTES - len(key or b"") - len(value or b"")
        return room >= sum(HEADER_OVERHEAD_BYTES + len(name.encode()) + len(held or b"") for name, held in headers)

    def _squeezed(self, queue: str, record: Record, own: Sequence[Header], ours: tuple[Header, ...]) -> Output:
        """What is given up for a record too large, in this order: the trace, the value, its own headers, the key."""
        if self._fits(record.key, record.value, (*own, *ours)):
            return Output(queue, record.key, record.value, (*own, *ours))
        oversize: Header = (h.DISPOSITION, b"oversize")
        pointer = (*(oversize if name == h.DISPOSITION else (name, value) for name, value in ours),)
        pointer = (*pointer, (h.VALUE_BYTES, b"%d" % len(record.value or b"")))
        for kept, key in ((own, record.key), ((), record.key), ((), None)):
            if self._fits(key, None, (*kept, *pointer)):
                return Output(queue, key, None, (*kept, *pointer))
        return Output(queue, None, None, pointer)


def _message(failure: Failure) -> bytes:
    return h.clip(failure.message or failure.reason, h.MAX_MESSAGE_BYTES)

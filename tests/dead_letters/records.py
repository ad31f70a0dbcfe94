"""Records and dead letters for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.dead_letters.record import DeadLetterRecordEncoder
from app.engine.api import Failure, Output
from app.settings import Settings

FAILED_AT_MS = 1_700_000_000_123
FAILURE = Failure("validate", "missing_message_id", "messageId is missing")


@dataclass(slots=True)
class FakeRecord:
    """A consumed record."""

    topic: str = "interactions"
    partition: int = 3
    offset: int = 41
    key: bytes | None = b"user-1"
    value: bytes | None = b'{"type":"track"}'
    timestamp: int = 1_699_999_999_000
    timestamp_type: int = 0
    headers: Sequence[tuple[str, bytes | None]] = ()


def encoder(*, max_bytes: int | None = None, **settings: Any) -> DeadLetterRecordEncoder:
    """An encoder for ``interactions``; keyword arguments are settings."""
    named: dict[str, Any] = {"worker_id": "pod-7", "app_version": "1.2.3"}
    built = Settings(**(named | settings))
    return DeadLetterRecordEncoder(built) if max_bytes is None else DeadLetterRecordEncoder(built, max_bytes=max_bytes)


def added(output: Output) -> dict[str, str]:
    """The headers that Veltrix added, as text."""
    return {name: (value or b"").decode() for name, value in output.headers if name.startswith(("dlq.", "__dlq."))}


def replayed(output: Output, *, offset: int, job: str, value: bytes | None = None) -> FakeRecord:
    """The record that a replay of ``output`` puts on its source topic (dead-letters format, 1.2)."""
    kept = {"dlq.id", "dlq.original.timestamp", "dlq.original.timestamp.type", "dlq.first.failed.at", "dlq.attempts"}
    headers = [(name, raw) for name, raw in output.headers if name in kept or not name.startswith(("dlq.", "__dlq."))]
    count = int(added(output)["dlq.replay.count"]) + 1
    headers += [("dlq.replay.count", b"%d" % count), ("dlq.replay.job", job.encode())]
    return FakeRecord(offset=offset, key=output.key, value=value or output.value, headers=headers)

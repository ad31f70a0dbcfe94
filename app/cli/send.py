"""``veltrix send``: put one event on the source topic, and say what the worker will make of it."""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiokafka

from app.cli.console import CommandError
from app.cli.records import rfc3339
from app.domain.codec import Limits
from app.domain.errors import Rejection
from app.domain.routing import partition_of
from app.domain.validation import classify
from app.kafka_clients import client_options, connected
from app.settings import Settings
from app.topic_admin import open_admin


@dataclass(frozen=True, slots=True)
class Sent:
    """Where the event went. ``refusal`` says why validation will refuse it; None: it will not."""

    topic: str
    partition: int
    offset: int
    key: str | None
    bytes: int
    refusal: str | None


@dataclass(frozen=True, slots=True)
class _Draft:
    """The record as validation sees it before it is sent."""

    partition: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    headers: tuple[tuple[str, bytes | None], ...] = ()


def read_event(path: str) -> bytes:
    """The content of a file, or of stdin for ``-``, without the line end that editors add.

    Raises:
        CommandError: it cannot be read or is empty.
    """
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as exc:
        raise CommandError(f"{path}: {exc.strerror}") from exc
    raw = raw.rstrip(b"\r\n")
    if not raw:
        raise CommandError(f"{path} is empty: give one event as JSON")
    return raw


def fill(raw: bytes, now_ms: int) -> bytes:
    """Add ``messageId`` and ``timestamp`` where they are missing.

    Raises:
        CommandError: the text is no JSON object.
    """
    event = _object(raw)
    if event is None:
        raise CommandError("--fill needs a JSON object; without --fill the bytes are sent as they are")
    filled = {"messageId": str(uuid.uuid4()), "timestamp": rfc3339(now_ms)} | event
    return json.dumps(filled, ensure_ascii=False, separators=(",", ":")).encode()


def key_of(raw: bytes) -> str | None:
    """``userId``, else ``anonymousId``; None when there is no such text."""
    event = _object(raw) or {}
    found = (event.get(name) for name in ("userId", "anonymousId"))
    return next((value for value in found if isinstance(value, str) and value), None)


async def send_event(settings: Settings, topic: str, raw: bytes, key: str | None) -> Sent:
    """Send one record, wait for the acknowledgement of all in-sync replicas. ``key`` None: the event's own.

    Raises:
        KafkaConnectError, UnknownTopicError, KafkaError: it was not sent.
    """
    async with open_admin(settings) as admin:
        count = len(await admin.partitions(topic))
    key = key_of(raw) if key is None else key
    key_bytes = None if key is None else key.encode()
    options = client_options(settings) | {"max_request_size": 4 * 1024 * 1024}  # the broker decides what is too large
    async with connected(aiokafka.AIOKafkaProducer(**options, acks="all", enable_idempotence=True), settings) as producer:
        partition = None if key_bytes is None else partition_of(key_bytes, count)
        now_ms = time.time_ns() // 1_000_000
        done = await producer.send_and_wait(topic, raw, key=key_bytes, partition=partition, timestamp_ms=now_ms)
    draft = _Draft(done.partition, key_bytes, raw, now_ms)
    return Sent(topic, done.partition, done.offset, key, len(raw), refusal(settings, draft, count))


def refusal(settings: Settings, draft: _Draft, partitions: int) -> str | None:
    """Why validation will make a dead letter of the record; None when it will not."""
    limits = Limits(
        max_event_bytes=settings.max_event_bytes,
        max_id_chars=settings.max_id_chars,
        max_age_ms=settings.max_age_ms,
        max_ahead_ms=settings.max_ahead_ms,
        partitions=partitions,
    )
    verdict = classify(draft, limits)
    return f"{verdict.reason}: {verdict.message}" if isinstance(verdict, Rejection) else None


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None

"""The truth: the source topic itself, read again from offset 0 and folded record by record in one thread.

It shares no code with the worker. Which records are wrong, and why, is known from the generator that made them;
what is valid is numbered per user, a repeated messageId is a duplicate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app.cli.clickstream import BAD_KINDS, Click


class SourceRecord(NamedTuple):
    """One record of the source topic. ``timestamp``: epoch ms."""

    topic: str
    partition: int
    offset: int
    value: bytes
    timestamp: int

    @property
    def identity(self) -> str:
        """``topic:partition:offset``."""
        return f"{self.topic}:{self.partition}:{self.offset}"


@dataclass(slots=True)
class Truth:
    """What must come out of a source topic. Identities are ``topic:partition:offset``."""

    records: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    """partition -> next offset after its last record"""
    outputs: dict[str, bytes] = field(default_factory=dict)
    """identity -> exact value, of every valid unique event"""
    duplicates: int = 0
    dead_letters: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    """identity -> reason and original bytes"""
    sequences: dict[str, int] = field(default_factory=dict)
    """state key (``u:42``) -> number of its last event"""
    values: set[bytes] = field(default_factory=set)
    """every source value"""


CRASHING = b"segmentation-fault-please"
"""In the value of a valid record that the worker of one test does not survive"""


def reasons_of(clicks: Sequence[Click]) -> dict[bytes, str]:
    """value -> reason of every record that is not to come out."""
    found = {click.value: BAD_KINDS[click.kind].value for click in clicks if click.kind != "valid" and click.kind != "duplicate"}
    return found | {click.value: "crashed_worker" for click in clicks if CRASHING in click.value}


def fold(source: Iterable[SourceRecord], reasons: Mapping[bytes, str]) -> Truth:
    """Fold the records of the source topic, each partition in offset order."""
    truth = Truth()
    seen: set[tuple[str, str]] = set()
    for record in source:
        value, identity = record.value, record.identity
        truth.records += 1
        truth.ends[record.partition] = record.offset + 1
        truth.values.add(value)
        if value in reasons:
            truth.dead_letters[identity] = (reasons[value], value)
            continue
        event = json.loads(value)
        user = f"u:{event['userId']}" if event.get("userId") else f"a:{event['anonymousId']}"
        if (user, event["messageId"]) in seen:
            truth.duplicates += 1
            continue
        seen.add((user, event["messageId"]))
        number = truth.sequences[user] = truth.sequences.get(user, 0) + 1
        truth.outputs[identity] = value[:-1] + b',"veltrix":{"sequence":%d,"received_at":%d}}' % (number, record.timestamp)
    return truth

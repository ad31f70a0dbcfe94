"""The record that a replay sends: a dead letter as it was when it failed first, and who sends it again.

It goes where it came from, to this application's own source and nowhere else: a header must not lead a writer to a
topic that he has no right to (KIP-1191 names the risk).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from app.dead_letters import headers as h
from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.deeds import Written
from app.engine.api import Header

#: After so many replays a record is ``exhausted``: what failed twice after a mend is not mended.
MAX_REPLAYS: Final = 2
#: The rest of its story stays with the record, for the next dead letter if there is one.
KEPT: Final = (h.ID, h.FIRST_FAILED_AT, h.ORIGINAL_TIMESTAMP, h.ORIGINAL_TIMESTAMP_TYPE, h.ATTEMPTS)


class NotReplayable(Exception):
    """This letter cannot be sent again as it is. ``kind`` names the reason for programs."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Ours:
    """Dead letter queues of this application, and the topics that it may write to, with their partition counts.

    ``releases``: source -> the retry tier in which its lanes are told what was discarded; where order is kept per key.
    """

    queues: frozenset[str]
    sources: Mapping[str, int]
    releases: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReplayRecord:
    """What is to be produced. ``timestamp``: epoch ms, of the record when it came first."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    timestamp: int


def release_of(letter: DeadLetterRecord, ours: Ours) -> Written | None:
    """What tells the lane that ``letter`` was discarded, so that the later events of its key wait no longer.

    None where nobody waits: no key, order is not kept, or it is another application's.
    """
    topic, partition = letter.source_topic, letter.source_partition
    tier = ours.releases.get(topic or "")
    if tier is None or topic is None or partition is None or letter.key is None or letter.dlq_id is None:
        return None
    if letter.topic not in ours.queues or not 0 <= partition < ours.sources.get(topic, 0):
        return None
    headers: tuple[Header, ...] = ((h.ID, letter.dlq_id.encode()), (h.DISCARDED, b"true"))
    return Written(tier, letter.key, None, partition, headers=headers)


def written(record: ReplayRecord) -> Written:
    """``record`` for the transaction."""
    return Written(record.topic, record.key, record.value, record.partition, record.timestamp, record.headers)


def replay_of(
    letter: DeadLetterRecord,
    ours: Ours,
    job: str,
    *,
    value: bytes | None = None,
    edit: str | None = None,
    force: bool = False,
) -> ReplayRecord:
    """The record to send again.

    Args:
        letter: with its value and headers, as Kafka has it.
        ours: where it may come from, and go.
        job: who sends it; ``dlq.replay.job``.
        value: in place of the original one; then ``edit`` says which patch made it.
        force: also when it was replayed too often.

    Raises:
        NotReplayable: it came from elsewhere, was replayed too often, or its value is not here.
    """
    topic, partition = letter.source_topic, letter.source_partition
    if letter.topic not in ours.queues:
        raise NotReplayable(
            "foreign-queue", f"{letter.topic} is another application's: it can be read here, and sent again by its owner"
        )
    if topic is None or topic not in ours.sources or partition is None:
        raise NotReplayable(
            "foreign-source", f"it came from {topic or 'nowhere that it tells'}, not from a source of this application"
        )
    if not 0 <= partition < ours.sources[topic]:
        raise NotReplayable("foreign-source", f"{topic} has no partition {partition}")
    if letter.replay_count >= MAX_REPLAYS and not force:
        raise NotReplayable("exhausted", f"it was replayed {letter.replay_count} times and failed again: mend it, or force it")
    if letter.value is None and letter.value_bytes is not None and value is None:
        raise NotReplayable(
            "value-elsewhere", f"its {letter.value_bytes} bytes are at {letter.dlq_id} alone, if retention has left them there"
        )
    found = {name: held for name, held in letter.headers if name in h.MANAGED}
    headers = [header for header in letter.headers if header[0] not in h.MANAGED]
    headers += [(name, found[name]) for name in KEPT if found.get(name) is not None]
    headers += [(h.REPLAY_COUNT, b"%d" % (letter.replay_count + 1)), (h.REPLAY_JOB, job.encode())]
    if edit is not None or letter.edited is not None:
        headers.append((h.EDITED, f"true {edit}".encode() if edit is not None else (letter.edited or "").encode()))
    timestamp = letter.original_timestamp_ms
    return ReplayRecord(
        topic,
        partition,
        letter.key,
        letter.value if value is None else value,
        tuple(headers),
        time.time_ns() // 1_000_000 if timestamp is None else timestamp,
    )

"""What is known of a dead letter beside itself: the records of the compacted topic ``dlq.<app>.state``.

A dead letter never changes. Who did what with it is a record of its own, by key: ``<topic>:<partition>:<offset>`` for one
letter, ``group:<topic>:<fingerprint>`` for what people noted about a failure group, ``job:<id>`` for a replay job.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import msgspec

from app.dead_letters.lineage import Origin, parse_origin

Status = Literal["pending", "validating", "replaying", "replayed", "resolved", "discarded", "exhausted"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
#: Somebody still has to do something about these.
OPEN: Final = frozenset({"pending", "validating", "replaying", "exhausted"})

GROUP_PREFIX: Final = b"group:"
JOB_PREFIX: Final = b"job:"


class LetterState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The last thing that happened to a dead letter. ``at``: RFC 3339. ``version`` counts its changes, from 1."""

    status: Status
    by: str = ""
    at: str = ""
    job: str | None = None
    note: str | None = None
    version: int = 1
    request: str | None = None
    """The Idempotency-Key of whoever did it"""


class GroupNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """What people know about a failure group. ``muted_until``: RFC 3339; no alert before."""

    note: str | None = None
    owner: str | None = None
    muted_until: str | None = None
    by: str = ""
    at: str = ""


class JobHead(msgspec.Struct, frozen=True):
    """What the index looks at in a job's record."""

    id: str
    queue: str
    state: str


encode_state: Final = msgspec.json.Encoder().encode
_state_decoder: Final = msgspec.json.Decoder(LetterState)
_note_decoder: Final = msgspec.json.Decoder(GroupNote)
_head_decoder: Final = msgspec.json.Decoder(JobHead)


def letter_key(queue: str, partition: int, offset: int) -> bytes:
    """Key of one dead letter's state."""
    return f"{queue}:{partition}:{offset}".encode()


def group_key(queue: str, fingerprint: str) -> bytes:
    """Key of a group's note. Topic names hold no colon."""
    return GROUP_PREFIX + f"{queue}:{fingerprint}".encode()


def job_key(job: str) -> bytes:
    """Key of a job."""
    return JOB_PREFIX + job.encode()


def decode_job_head(raw: bytes) -> JobHead | None:
    """None: not a job that this version knows."""
    try:
        return _head_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None


def parse_key(raw: bytes | None) -> Origin | tuple[str, str] | None:
    """A letter's place, a group's queue and fingerprint, or None for what is neither."""
    text = (raw or b"").decode(errors="replace")
    if text.startswith(GROUP_PREFIX.decode()):
        queue, _, fingerprint = text.removeprefix(GROUP_PREFIX.decode()).partition(":")
        return (queue, fingerprint) if queue and fingerprint else None
    return parse_origin(text)


def decode_state(raw: bytes) -> LetterState | None:
    """None: not a state that this version knows."""
    try:
        return _state_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None


def decode_note(raw: bytes) -> GroupNote | None:
    """None: not a note that this version knows."""
    try:
        return _note_decoder.decode(raw)
    except msgspec.MsgspecError:
        return None

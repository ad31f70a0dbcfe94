"""What a worker leaves on its disk for the case that it dies while an agent's body runs: two small files a lane.

``<lane>.note`` says which records the body is working on right now. It is mapped into memory, so that noting a run
costs a copy of some bytes and no system call, and yet the kernel keeps the note when the process is gone (not when the
machine is: then an attempt is forgotten, which is harmless). ``<lane>.json`` is what earlier ends taught, kept until
the records in it are durable; it is rewritten as a whole and only after a crash.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from app.engine.api import Record

log = structlog.get_logger(__name__)

#: First offset, last offset, timestamp of the first record (epoch ms).
_RUN = struct.Struct("<qqq")
#: 1 while a run is in progress, checksum of topic and run, the run.
_NOTE = struct.Struct(f"<BI{_RUN.size}s")
#: Kafka's limit is 249 characters.
_TOPIC = struct.Struct("<250p")
_SIZE = _NOTE.size + _TOPIC.size


class Run(NamedTuple):
    """Consecutive records of one topic that the body works on together."""

    topic: str
    first: int
    last: int
    timestamp: int
    """of the first record, epoch ms"""


class RunNote:
    """The run in progress of one lane, readable after the process died."""

    __slots__ = ("_map", "_topic", "_topic_checksum")

    def __init__(self, path: Path) -> None:
        self._topic, self._topic_checksum = "", 0
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if os.fstat(handle).st_size != _SIZE:
                os.ftruncate(handle, 0)
                os.pwrite(handle, bytes(_SIZE), 0)  # real blocks: a full disk is an error here, not a SIGBUS later
            self._map = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)

    def begin(self, topic: str, first: int, last: int, timestamp: int) -> None:
        """The body is about to run. A half-written note says nothing: its checksum is wrong."""
        if topic != self._topic:
            self._write_topic(topic)
        run = _RUN.pack(first, last, timestamp)
        _NOTE.pack_into(self._map, 0, 1, zlib.crc32(run, self._topic_checksum), run)

    def end(self) -> None:
        """The body has returned or raised, or the process is being ended for another reason."""
        self._map[0] = 0

    def read(self) -> Run | None:
        """The run that was in progress; None when none was or the note is damaged."""
        in_progress, checksum, run = _NOTE.unpack_from(self._map)
        (topic,) = _TOPIC.unpack_from(self._map, _NOTE.size)
        if in_progress != 1 or checksum != zlib.crc32(run, zlib.crc32(topic)):
            return None
        return Run(topic.decode(), *_RUN.unpack(run))

    def _write_topic(self, topic: str) -> None:
        self._topic, self._topic_checksum = topic, zlib.crc32(topic.encode())
        _TOPIC.pack_into(self._map, _NOTE.size, topic.encode())

    def close(self) -> None:
        """Unmap."""
        self._map.close()


class Suspects(msgspec.Struct, frozen=True):
    """Offsets of one topic among which a guilty record may be; both ends included."""

    topic: str
    first: int
    last: int


class Crashed(msgspec.Struct, frozen=True):
    """A record that was processed alone when the process died. The timestamp (epoch ms) tells it from one of a re-created topic."""

    topic: str
    offset: int
    timestamp: int
    attempts: int

    def is_of(self, record: Record) -> bool:
        """It is this very record."""
        return (self.offset, self.timestamp, self.topic) == (record.offset, record.timestamp, record.topic)


class History(msgspec.Struct):
    """What earlier ends of the process taught about one lane's records that are not durable yet."""

    suspects: list[Suspects] = []
    crashed: list[Crashed] = []

    def add(self, run: Run, *, is_alone: bool) -> int:
        """The process died in ``run``; ``is_alone``: in no other one. Returns how often its one record did that, else 0."""
        if not any(s.topic == run.topic and s.first <= run.first and run.last <= s.last for s in self.suspects):
            self.suspects.append(Suspects(run.topic, run.first, run.last))
        if run.first != run.last or not is_alone:
            return 0
        before = [c for c in self.crashed if (c.topic, c.offset, c.timestamp) == (run.topic, run.first, run.timestamp)]
        attempts = 1 + sum(c.attempts for c in before)
        self.crashed = [c for c in self.crashed if c not in before]
        self.crashed.append(Crashed(run.topic, run.first, run.timestamp, attempts))
        return attempts


def load_history(path: Path) -> History:
    """The lane's history; an empty one when there is none or it cannot be read (attempts are counted anew)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=History)
    except FileNotFoundError:
        return History()
    except msgspec.MsgspecError as exc:
        log.warning("crash_history_unreadable", path=str(path), error=str(exc))
        return History()


def save_history(path: Path, history: History) -> None:
    """Replace the file; without a history there is none."""
    if not history.suspects and not history.crashed:
        path.unlink(missing_ok=True)
        return
    new = path.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(history))
    new.replace(path)

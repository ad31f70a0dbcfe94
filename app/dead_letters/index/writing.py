"""Filling the index: batches of dead letters and of states, each in one transaction with the offset behind it.

So the index is at every moment what the topics held up to its positions, whenever its process was killed; state
records may be read before the letter they are about, or after.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.index.schema import FILTERED, ID_BITS, facet, open_writer
from app.dead_letters.index.states import JOB_PREFIX, decode_job_head, decode_note, decode_state, parse_key
from app.dead_letters.lineage import Origin
from app.engine.api import Record

#: Bytes of a value that can be searched for.
SEARCHED_BYTES: Final = 2048
COLUMNS: Final = (
    "id", "queue", "partition", "offset", "timestamp_ms", "status", "key", "value_bytes", "dlq_id", "source_topic",
    "source_partition", "source_offset", "original_timestamp_ms", "original_timestamp_type", "stage", "reason", "disposition",
    "fingerprint", "exception_class", "message", "failed_at_ms", "first_failed_at_ms", "delivery_count", "replay_count",
    "replay_job", "app", "app_version", "host",
)  # fmt: skip
_QUEUE, _STATUS, _FINGERPRINT = (COLUMNS.index(name) for name in ("queue", "status", "fingerprint"))
_FACETS: Final = tuple((name, COLUMNS.index(name)) for name in FILTERED)
#: Made-up words kept ready.
MAX_FACETS: Final = 10_000
INSERT: Final = f"INSERT INTO letters ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"
#: Counted from the rows, so that what is read again changes nothing.
GROUP: Final = """
INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    first_version = CASE WHEN excluded.first_ms < first_ms THEN excluded.first_version ELSE first_version END,
    first_ms = min(first_ms, excluded.first_ms),
    message = CASE WHEN excluded.last_ms >= last_ms THEN excluded.message ELSE message END,
    sample = CASE WHEN excluded.last_ms >= last_ms THEN excluded.sample ELSE sample END,
    last_ms = max(last_ms, excluded.last_ms)
"""
COUNT: Final = "INSERT INTO counts VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count"
_PUNCTUATION: Final = re.compile(r"[\x00-\x1f]+")

Place = tuple[str, int, int]
"""Queue, partition, offset of a dead letter"""
Numbered = tuple[int, int, int]
"""The same with the queue's number"""
Positions = Mapping[tuple[str, int], int]
"""Topic and partition -> next offset to read"""


class IndexWriter:
    """The one writer of an index file. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = open_writer(path)
        self._queues: dict[str, int] = dict(self._db.execute("SELECT name, number FROM queues"))
        self._facets: dict[tuple[str, str | bytes], str] = {}

    def close(self) -> None:
        """Finish."""
        self._db.close()

    def positions(self) -> dict[tuple[str, int], int]:
        """Where to go on reading."""
        return {(topic, partition): at for topic, partition, at in self._db.execute("SELECT * FROM positions")}

    def add(self, letters: Sequence[DeadLetterRecord], positions: Positions) -> int:
        """Index ``letters``; returns how many were new. ``positions``: behind them, one per topic and partition."""
        with self._transaction():
            known = self._known(letters)
            new = [letter for letter in letters if (letter.topic, letter.partition, letter.offset) not in known]
            self._insert(new)
            self._move_on(positions)
        return len(new)

    def fold(self, records: Iterable[Record], positions: Positions) -> None:
        """Apply records of the state topic, in order. What is not ours to understand is left out."""
        with self._transaction():
            for record in records:
                if (record.key or b"").startswith(JOB_PREFIX):
                    self._set_job(record.value)
                    continue
                match parse_key(record.key):
                    case Origin() as place:
                        self._set_state(place, record.value)
                    case (queue, fingerprint):
                        self._set_note(str(queue), str(fingerprint), record.value)
            self._move_on(positions)

    def drop_below(self, queue: str, partition: int, begin: int) -> int:
        """Forget what retention has taken from the topic; returns how many letters."""
        number = self._queue(queue)
        with self._transaction():
            where = "WHERE queue = ? AND partition = ? AND offset < ?"
            gone = self._db.execute(f"SELECT id, fingerprint, status FROM letters {where}", (number, partition, begin)).fetchall()
            if gone:
                self._forget(number, gone)
                self._db.execute(f"DELETE FROM letters {where}", (number, partition, begin))
            self._db.execute(f"DELETE FROM states {where}", (number, partition, begin))
        return len(gone)

    def forget_topic(self, topic: str) -> None:
        """The topic was deleted and made again: nothing that came from it holds."""
        number = self._queue(topic)
        with self._transaction():
            self._db.execute("DELETE FROM texts WHERE rowid IN (SELECT id FROM letters WHERE queue = ?)", (number,))
            for table in ("letters", "groups", "counts", "states"):
                self._db.execute(f"DELETE FROM {table} WHERE queue = ?", (number,))
            for table in ("positions", "topics"):
                self._db.execute(f"DELETE FROM {table} WHERE topic = ?", (topic,))

    def topic_ids(self) -> dict[str, bytes]:
        """Kafka's id of each topic that was read."""
        return dict(self._db.execute("SELECT topic, topic_id FROM topics"))

    def remember_ids(self, ids: Mapping[str, bytes]) -> None:
        """These are the topics that are read from now on."""
        with self._transaction():
            self._db.executemany("INSERT OR REPLACE INTO topics VALUES (?, ?)", ids.items())

    # -- letters ----------------------------------------------------------------------------------

    def _known(self, letters: Sequence[DeadLetterRecord]) -> set[Place]:
        """Those of ``letters`` that are there: only what was read before the positions said so."""
        lowest: dict[tuple[str, int], int] = {}
        for letter in letters:
            lowest.setdefault((letter.topic, letter.partition), letter.offset)
        found: set[Place] = set()
        for (queue, partition), offset in lowest.items():
            rows = self._db.execute(
                "SELECT offset FROM letters WHERE queue = ? AND partition = ? AND offset >= ?",
                (self._queue(queue), partition, offset),
            )
            found |= {(queue, partition, row[0]) for row in rows}
        return found

    def _insert(self, letters: Sequence[DeadLetterRecord]) -> None:
        statuses = self._statuses(letters)
        rows, given = [], dict[int, int]()
        for letter in letters:
            place = self._place(letter)
            rows.append(_row(self._next_id(letter.timestamp_ms, given), place, letter, statuses.get(place, "pending")))
        self._db.executemany(INSERT, rows)
        texts = [(row[0], self._body(row, letter)) for row, letter in zip(rows, letters, strict=True)]
        self._db.executemany("INSERT INTO texts (rowid, body) VALUES (?, ?)", texts)
        self._db.executemany(GROUP, _groups(letters, rows))
        counted = Counter((row[_QUEUE], row[_FINGERPRINT], row[_STATUS]) for row in rows)
        self._db.executemany(COUNT, [(*group, count) for group, count in counted.items()])

    def _body(self, row: tuple[Any, ...], letter: DeadLetterRecord) -> str:
        facets = [self._facet(column, value) for column, at in _FACETS if (value := row[at]) is not None]
        return f"{searched_text(letter)} {' '.join(facets)}"

    def _facet(self, column: str, value: str | bytes) -> str:
        """Kept, since most columns have few values; keys are many and are not."""
        if isinstance(value, bytes):
            return facet(column, value)
        found = self._facets.get((column, value))
        if found is None:
            if len(self._facets) > MAX_FACETS:
                self._facets.clear()
            found = self._facets[column, value] = facet(column, value)
        return found

    def _place(self, letter: DeadLetterRecord) -> Numbered:
        return self._queue(letter.topic), letter.partition, letter.offset

    def _queue(self, name: str) -> int:
        """The number that stands for a queue in every other table."""
        number = self._queues.get(name)
        if number is None:
            self._db.execute("INSERT OR IGNORE INTO queues (name) VALUES (?)", (name,))
            number = self._queues[name] = self._db.execute("SELECT number FROM queues WHERE name = ?", (name,)).fetchone()[0]
        return number

    def _statuses(self, letters: Sequence[DeadLetterRecord]) -> dict[Numbered, str]:
        if self._db.execute("SELECT NOT EXISTS (SELECT 1 FROM states)").fetchone()[0]:
            return {}
        look = "SELECT status FROM states WHERE queue = ? AND partition = ? AND offset = ?"
        found = ((place, self._db.execute(look, place).fetchone()) for place in map(self._place, letters))
        return {place: row[0] for place, row in found if row is not None}

    def _next_id(self, timestamp_ms: int, given: dict[int, int]) -> int:
        """Unique, and by time. ``given``: the last number of each millisecond in this batch."""
        begin = max(0, timestamp_ms) << ID_BITS
        last = given.get(begin)
        if last is None:
            taken = "SELECT max(id) FROM letters WHERE id BETWEEN ? AND ?"
            last = self._db.execute(taken, (begin, begin + (1 << ID_BITS) - 1)).fetchone()[0]
        given[begin] = begin if last is None else last + 1
        return given[begin]

    def _forget(self, queue: int, gone: Sequence[sqlite3.Row]) -> None:
        self._db.executemany("DELETE FROM texts WHERE rowid = ?", [(row["id"],) for row in gone])
        lost = Counter((row["fingerprint"], row["status"]) for row in gone)
        self._db.executemany(
            "UPDATE counts SET count = count - ? WHERE queue = ? AND fingerprint = ? AND status = ?",
            [(count, queue, fingerprint, status) for (fingerprint, status), count in lost.items()],
        )
        self._db.execute("DELETE FROM counts WHERE queue = ? AND count <= 0", (queue,))
        self._db.execute(
            "DELETE FROM groups WHERE queue = ?1 AND fingerprint NOT IN (SELECT fingerprint FROM counts WHERE queue = ?1)", (queue,)
        )

    # -- states -----------------------------------------------------------------------------------

    def _set_state(self, origin: Origin, raw: bytes | None) -> None:
        state = None if raw is None else decode_state(raw)
        if raw is not None and state is None:
            return
        place = self._queue(origin.topic), origin.partition, origin.offset
        if state is None:
            self._db.execute("DELETE FROM states WHERE queue = ? AND partition = ? AND offset = ?", place)
        else:
            self._db.execute("INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?, ?, ?)", (*place, state.status, raw, state.job))
        row = self._db.execute(
            "SELECT id, fingerprint, status FROM letters WHERE queue = ? AND partition = ? AND offset = ?", place
        ).fetchone()
        if row is not None:
            self._change(place[0], row, "pending" if state is None else state.status)

    def _change(self, queue: int, row: sqlite3.Row, status: str) -> None:
        number, fingerprint, before = row["id"], row["fingerprint"], row["status"]
        if status == before:
            return
        self._db.execute("UPDATE letters SET status = ? WHERE id = ?", (status, number))
        self._db.executemany(COUNT, [(queue, fingerprint, before, -1), (queue, fingerprint, status, 1)])
        self._db.execute("DELETE FROM counts WHERE queue = ? AND fingerprint = ? AND count <= 0", (queue, fingerprint))
        body = self._db.execute("SELECT body FROM texts WHERE rowid = ?", (number,)).fetchone()[0]
        body = body.replace(self._facet("status", before), self._facet("status", status))
        self._db.execute("UPDATE texts SET body = ? WHERE rowid = ?", (body, number))

    def _set_note(self, queue: str, fingerprint: str, raw: bytes | None) -> None:
        group = self._queue(queue), fingerprint
        if raw is None:
            self._db.execute("DELETE FROM group_notes WHERE queue = ? AND fingerprint = ?", group)
        elif decode_note(raw) is not None:
            self._db.execute("INSERT OR REPLACE INTO group_notes VALUES (?, ?, ?)", (*group, raw))

    def _set_job(self, raw: bytes | None) -> None:
        head = None if raw is None else decode_job_head(raw)
        if head is not None:
            self._db.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?)", (head.id, head.queue, head.state, raw))

    # -- both -------------------------------------------------------------------------------------

    def _move_on(self, positions: Positions) -> None:
        rows = [(topic, partition, offset) for (topic, partition), offset in positions.items()]
        self._db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def searched_text(letter: DeadLetterRecord) -> str:
    """What a search looks through: key, message, class, reason, ids, and the beginning of the value."""
    value = (letter.value or b"")[:SEARCHED_BYTES].decode(errors="replace")
    key = (letter.key or b"").decode(errors="replace")
    parts = (key, letter.message, letter.exception_class, letter.reason, letter.dlq_id, letter.host, value)
    return _PUNCTUATION.sub(" ", " ".join(part for part in parts if part))


def fingerprint_of(letter: DeadLetterRecord) -> str:
    """Of the header; without one, what else says what kind of failure it is."""
    return letter.fingerprint or letter.exception_class or letter.reason or "unknown"


def _row(number: int, place: Numbered, letter: DeadLetterRecord, status: str) -> tuple[Any, ...]:
    size = letter.value_bytes if letter.value is None else len(letter.value)
    return (
        number, *place, letter.timestamp_ms, status, letter.key, size, letter.dlq_id,
        letter.source_topic, letter.source_partition, letter.source_offset, letter.original_timestamp_ms,
        letter.original_timestamp_type, letter.stage, letter.reason, letter.disposition, fingerprint_of(letter),
        letter.exception_class, letter.message, letter.failed_at_ms, letter.first_failed_at_ms, letter.delivery_count,
        letter.replay_count, letter.replay_job, letter.app, letter.app_version, letter.host,
    )  # fmt: skip


def _groups(letters: Sequence[DeadLetterRecord], rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """One row per group of the batch: its first and its last letter."""
    found: dict[tuple[int, str], tuple[DeadLetterRecord, DeadLetterRecord, int]] = {}
    for letter, row in zip(letters, rows, strict=True):
        group = row[_QUEUE], row[_FINGERPRINT]
        first, last, sample = found.get(group, (letter, letter, row[0]))
        if letter.timestamp_ms < first.timestamp_ms:
            first = letter
        if letter.timestamp_ms >= last.timestamp_ms:
            last, sample = letter, row[0]
        found[group] = first, last, sample
    return [
        (
            *group,
            first.timestamp_ms,
            last.timestamp_ms,
            first.app_version,
            last.stage,
            last.reason,
            last.exception_class,
            last.message,
            sample,
        )
        for group, (first, last, sample) in found.items()
    ]

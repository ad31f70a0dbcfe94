"""Asking the index: pages, groups, one state, numbers per queue. Every answer is a bounded range of an index."""

from __future__ import annotations

import base64
import re
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from app.dead_letters.api import DeadLetterRecord, Filters, Group, InvalidQuery, Page
from app.dead_letters.index.schema import FILTERED, ID_BITS, facet, open_reader
from app.dead_letters.index.states import GroupNote, LetterState, decode_note, decode_state
from app.dead_letters.lineage import Origin

#: What SQLite takes for a word (see the tokenizer in ``schema``); everything else separates.
_WORD: Final = re.compile(r"[\w\-@.]+\*?")
MAX_WORDS: Final = 16
#: Columns of a row that are columns of a record by another name, or of none.
_OWN: Final = frozenset({"id", "queue"})


class IndexReader:
    """Reads an index file while its writer goes on. Not for several threads at once."""

    def __init__(self, path: Path) -> None:
        self._db = open_reader(path)

    def close(self) -> None:
        """Finish."""
        self._db.close()

    def page(self, queue: str, limit: int, cursor: str | None, filters: Filters, *, oldest_first: bool = False) -> Page:
        """Letters by time of failure; without values and headers, which Kafka has.

        Raises:
            InvalidQuery: no cursor of such a list, or no word to look for.
        """
        source, by, conditions, values = _search(self._queue(queue), filters)
        if cursor is not None:
            conditions.append(f"{by} {'>' if oldest_first else '<'} ?")
            values.append(decode_cursor(cursor))
        order = "ASC" if oldest_first else "DESC"
        query = f"SELECT letters.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {by} {order} LIMIT ?"
        rows = self._db.execute(query, (*values, limit + 1)).fetchall()
        more = encode_cursor(rows[limit - 1]["id"]) if len(rows) > limit else None
        return Page(tuple(_record(queue, row) for row in rows[:limit]), more, len(rows[:limit]))

    def untouched(self, queue: str, limit: int, after_ms: int, filters: Filters, job: str) -> list[DeadLetterRecord]:
        """The oldest letters that match, failed at or after that time, and that ``job`` has done nothing about yet."""
        source, by, conditions, values = _search(self._queue(queue), filters)
        conditions += [
            f"{by} >= ?",
            "NOT EXISTS (SELECT 1 FROM states AS s WHERE s.queue = letters.queue AND s.partition = letters.partition AND s.offset = letters.offset AND s.job = ?)",
        ]
        query = f"SELECT letters.* FROM {source} WHERE {' AND '.join(conditions)} ORDER BY {by} LIMIT ?"
        rows = self._db.execute(query, (*values, max(0, after_ms) << ID_BITS, job, limit)).fetchall()
        return [_record(queue, row) for row in rows]

    def failed_again(self, job: str) -> int:
        """Letters of records that ``job`` has sent."""
        return int(self._db.execute("SELECT count(*) FROM letters WHERE replay_job = ?", (job,)).fetchone()[0])

    def job(self, job: str) -> bytes | None:
        """A job's last record."""
        row = self._db.execute("SELECT value FROM jobs WHERE id = ?", (job,)).fetchone()
        return None if row is None else bytes(row["value"])

    def jobs(self) -> list[bytes]:
        """Every job's last record."""
        return [bytes(row["value"]) for row in self._db.execute("SELECT value FROM jobs")]

    def count(self, queue: str, filters: Filters) -> int:
        """How many letters match."""
        source, _, conditions, values = _search(self._queue(queue), filters)
        return int(self._db.execute(f"SELECT count(*) FROM {source} WHERE {' AND '.join(conditions)}", values).fetchone()[0])

    def _queue(self, name: str) -> int:
        """Its number; of one that nothing was read from, one that nothing has."""
        row = self._db.execute("SELECT number FROM queues WHERE name = ?", (name,)).fetchone()
        return -1 if row is None else int(row[0])

    def groups(self, queue: str, status: str | None = None) -> list[Group]:
        """Failure groups, the largest first; with ``status`` only letters of that status count."""
        number = self._queue(queue)
        counts: dict[str, dict[str, int]] = {}
        for fingerprint, name, count in self._db.execute(
            "SELECT fingerprint, status, count FROM counts WHERE queue = ?", (number,)
        ):
            counts.setdefault(fingerprint, {})[name] = count
        notes = dict(self._db.execute("SELECT fingerprint, value FROM group_notes WHERE queue = ?", (number,)))
        rows = self._db.execute(
            "SELECT groups.*, letters.partition, letters.offset FROM groups LEFT JOIN letters ON letters.id = groups.sample "
            "WHERE groups.queue = ?",
            (number,),
        )
        found = [_group(queue, row, counts.get(row["fingerprint"], {}), notes.get(row["fingerprint"])) for row in rows]
        shown = [group for group in found if status is None or group.counts.get(status)]
        return sorted(shown, key=lambda group: -(group.count if status is None else group.counts[status]))

    def statuses(self, queue: str) -> dict[str, int]:
        """Letters by status."""
        rows = self._db.execute("SELECT status, sum(count) FROM counts WHERE queue = ? GROUP BY status", (self._queue(queue),))
        return {status: count for status, count in rows if count}

    def oldest_ms(self, queue: str, status: str) -> int | None:
        """When the oldest letter of that status failed."""
        row = self._db.execute(
            "SELECT id FROM letters WHERE queue = ? AND status = ? ORDER BY id LIMIT 1", (self._queue(queue), status)
        ).fetchone()
        return None if row is None else row["id"] >> ID_BITS

    def since(self, queue: str, after_ms: int) -> int:
        """How many failed at or after that time."""
        asked = "SELECT count(*) FROM letters WHERE queue = ? AND id >= ?"
        return int(self._db.execute(asked, (self._queue(queue), max(0, after_ms) << ID_BITS)).fetchone()[0])

    def state(self, place: Origin) -> LetterState | None:
        """What is known of one letter; None: nothing was done about it."""
        asked = "SELECT value FROM states WHERE queue = ? AND partition = ? AND offset = ?"
        row = self._db.execute(asked, (self._queue(place.topic), place.partition, place.offset)).fetchone()
        return None if row is None else decode_state(row["value"])

    def positions(self) -> dict[tuple[str, int], int]:
        """Up to where each topic is folded in."""
        return {(topic, partition): at for topic, partition, at in self._db.execute("SELECT * FROM positions")}


def encode_cursor(number: int) -> str:
    """Opaque text; only :func:`decode_cursor` reads it."""
    return base64.urlsafe_b64encode(number.to_bytes(8, "big")).decode().rstrip("=")


def decode_cursor(text: str) -> int:
    """The id of the last letter of the page before.

    Raises:
        InvalidQuery: it is no such cursor.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    if len(raw) != 8 or raw[0] > 127:
        raise InvalidQuery("cursor: give next_cursor of the page before, unchanged")
    return int.from_bytes(raw, "big")


def match_of(query: str) -> str:
    """SQLite's form of a search: all words, each whole unless it ends in ``*``.

    Raises:
        InvalidQuery: there is no word in it.
    """
    words = _WORD.findall(query)[:MAX_WORDS]
    if not words:
        raise InvalidQuery("q: at least one word; `word*` finds what begins with it")
    return " AND ".join(f'"{word.rstrip("*")}"{"*" if word.endswith("*") else ""}' for word in words if word.rstrip("*"))


def _search(queue: int, filters: Filters) -> tuple[str, str, list[str], list[Any]]:
    """Tables, the column that stands for time, conditions and their values."""
    if filters.query is None:
        return "letters", "letters.id", *_conditions(queue, filters, "letters.id")
    conditions, values = _conditions(queue, filters, "texts.rowid")
    wanted = [facet(column, value) for column in FILTERED if (value := getattr(filters, column)) is not None]
    # Matches come out by rowid, which is the time; their rows are looked up one by one until the page is full.
    source = "texts CROSS JOIN letters ON letters.id = texts.rowid"
    match = " AND ".join([match_of(filters.query), *wanted])
    return source, "texts.rowid", ["texts MATCH ?", *conditions], [match, *values]


def _conditions(queue: int, filters: Filters, by: str) -> tuple[list[str], list[Any]]:
    conditions, values = ["letters.queue = ?"], list[Any]([queue])
    for column in FILTERED:
        wanted = getattr(filters, column)
        if wanted is not None:
            conditions.append(f"letters.{column} = ?")
            values.append(wanted)
    for bound, comparison in ((filters.failed_after_ms, ">="), (filters.failed_before_ms, "<")):
        if bound is not None:
            conditions.append(f"{by} {comparison} ?")
            values.append(min(max(0, bound), 1 << (62 - ID_BITS)) << ID_BITS)
    return conditions, values


def _record(queue: str, row: sqlite3.Row) -> DeadLetterRecord:
    fields: dict[str, Any] = {name: row[name] for name in row.keys() if name not in _OWN}  # noqa: SIM118 - a Row iterates over values
    return DeadLetterRecord(topic=queue, value=None, headers=(), group=None, stacktrace=None, attempts=(), edited=None, **fields)


def _group(queue: str, row: sqlite3.Row, counts: Mapping[str, int], note: bytes | None) -> Group:
    place = None if row["offset"] is None else f"{queue}:{row['partition']}:{row['offset']}"
    known = (None if note is None else decode_note(note)) or GroupNote()
    return Group(
        queue=queue,
        fingerprint=row["fingerprint"],
        counts=dict(counts),
        first_failed_at_ms=row["first_ms"],
        last_failed_at_ms=row["last_ms"],
        first_version=row["first_version"],
        stage=row["stage"],
        reason=row["reason"],
        exception_class=row["exception_class"],
        message=row["message"],
        sample=place,
        note=known.note,
        owner=known.owner,
        muted_until=known.muted_until,
    )

"""The tables of the index, and opening its file.

A row's ``id`` is its time of failure (Kafka's timestamp, ms) and a number within it: order by id is order by time, each
index of one column is one of column and time, and a full-text match comes out by time, so that a page is a bounded
range whatever it is filtered by. Each text holds, beside its words, one made-up word per filtered column (``facet``), so that
a search within a filter is an intersection of two lists and not a look at every match.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Final

#: Files of another version are thrown away and built again from Kafka.
VERSION: Final = 2
#: Letters of one millisecond that are told apart; more of them go to the next.
ID_BITS: Final = 20
#: Bytes of the page cache of each connection.
CACHE_BYTES: Final = 64 * 1024**2

#: Columns that a list can be narrowed by, each with an index. ``key`` is bytes, the others are text.
FILTERED: Final = ("status", "stage", "reason", "disposition", "fingerprint", "exception_class", "app_version", "key")

TABLES: Final = """
CREATE TABLE positions (topic TEXT, partition INTEGER, next_offset INTEGER NOT NULL, PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE topics (topic TEXT PRIMARY KEY, topic_id BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE queues (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE letters (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL, timestamp_ms INTEGER NOT NULL,
    status TEXT NOT NULL,
    key BLOB, value_bytes INTEGER, dlq_id TEXT,
    source_topic TEXT, source_partition INTEGER, source_offset INTEGER,
    original_timestamp_ms INTEGER, original_timestamp_type TEXT,
    stage TEXT, reason TEXT, disposition TEXT, fingerprint TEXT NOT NULL, exception_class TEXT, message TEXT,
    failed_at_ms INTEGER NOT NULL, first_failed_at_ms INTEGER,
    delivery_count INTEGER, replay_count INTEGER NOT NULL, replay_job TEXT, app TEXT, app_version TEXT, host TEXT
);
CREATE UNIQUE INDEX letters_place ON letters (queue, partition, offset);
CREATE INDEX letters_queue ON letters (queue);
CREATE TABLE states (
    queue INTEGER, partition INTEGER, offset INTEGER, status TEXT NOT NULL, value BLOB NOT NULL, job TEXT,
    PRIMARY KEY (queue, partition, offset)
) WITHOUT ROWID;
CREATE TABLE groups (
    queue INTEGER, fingerprint TEXT, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, first_version TEXT,
    stage TEXT, reason TEXT, exception_class TEXT, message TEXT, sample INTEGER NOT NULL,
    PRIMARY KEY (queue, fingerprint)
) WITHOUT ROWID;
CREATE TABLE counts (
    queue INTEGER, fingerprint TEXT, status TEXT, count INTEGER NOT NULL, PRIMARY KEY (queue, fingerprint, status)
) WITHOUT ROWID;
CREATE TABLE group_notes (queue INTEGER, fingerprint TEXT, value BLOB NOT NULL, PRIMARY KEY (queue, fingerprint)) WITHOUT ROWID;
CREATE TABLE jobs (id TEXT PRIMARY KEY, queue TEXT NOT NULL, state TEXT NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX letters_job ON letters (replay_job) WHERE replay_job IS NOT NULL;
CREATE VIRTUAL TABLE texts USING fts5 (body, tokenize = "unicode61 tokenchars '-_@.'", detail = none, columnsize = 0);
"""


def facet(column: str, value: str | bytes) -> str:
    """The made-up word by which a text says that its letter has this value in this column."""
    raw = value.encode(errors="surrogatepass") if isinstance(value, str) else value
    return f"facet_{hashlib.blake2b(column.encode() + raw, digest_size=8).hexdigest()}"


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes; a file of another version, or a damaged one, is made anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path)
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == VERSION:
            return _connect(path)
    except sqlite3.DatabaseError:  # no database, or damaged: all that is in it is in Kafka
        pass
    finally:
        connection.close()
    remove(path)
    made = _connect(path)
    _create(made)
    return made


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that sees what was committed and never waits for the writer."""
    return _connect(path, "?mode=ro")


def remove(path: Path) -> None:
    """Delete the file and what SQLite keeps beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _connect(path: Path, mode: str = "") -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}{mode}", uri=True, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
    connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may take the last commits, and Kafka gives them again
    return connection


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.executescript(TABLES)
    for column in FILTERED:
        connection.execute(f"CREATE INDEX letters_{column} ON letters (queue, {column})")
    connection.execute(f"PRAGMA user_version = {VERSION}")

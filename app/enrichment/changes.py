"""Records of ``reference-changes``: somebody says that rows have changed. Understands our own form and Debezium's.

    key ``users:42``, value ``{"table": "users", "key": "42", "op": "update"}`` (or none: the key says it all)
    Debezium: value ``{"op": "u", "before": {...}, "after": {...}, "source": {"table": "users"}}``, with or without ``payload``
    Debezium's tombstone: key ``{"user_id": 42}``, no value

What changed is not looked at: the row is read again when it is next needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from app.enrichment.declaration import ReferenceTable

Changed = list[tuple[str, str]]
"""Reference table and key of each row that may have changed"""
_decode: Final = msgspec.json.Decoder().decode


class UnreadableChange(Exception):
    """A record says of no declared table what has changed. The message holds no payload."""


def change_key(table: str, key: str) -> bytes:
    """Key of our own record: the newest one of a row is kept by compaction."""
    return f"{table}:{key}".encode()


def change_value(table: str, key: str) -> bytes:
    """Value of our own record."""
    return msgspec.json.encode({"table": table, "key": key, "op": "update"})


def parse_change(key: bytes | None, value: bytes | None, tables: Mapping[str, ReferenceTable]) -> Changed:
    """Which rows of declared tables a record speaks of; none when it is about a table that nobody declared.

    Raises:
        UnreadableChange: it is neither our own form nor Debezium's.
    """
    if value:
        return _of_value(_json(value), tables)
    if not key:
        raise UnreadableChange("a record without key and value")
    if key[:1] in b"{":
        return list(_rows(_payload(_json(key)), tables.values()))
    name, colon, row = key.decode(errors="replace").partition(":")
    if not colon:
        raise UnreadableChange("a key that is not <table>:<key>")
    return [(name, row)] if name in tables else []


def _of_value(value: Any, tables: Mapping[str, ReferenceTable]) -> Changed:
    change = _payload(value)
    if isinstance(change.get("table"), str) and _is_key(change.get("key")):
        return [(change["table"], str(change["key"]))] if change["table"] in tables else []
    source = change.get("source")
    if not isinstance(source, dict) or not isinstance(source.get("table"), str):
        raise UnreadableChange("a value without table and key, and without Debezium's source")
    about = [table for table in tables.values() if table.table.rpartition(".")[2] == source["table"]]
    before, after = change.get("before"), change.get("after")
    rows = [row for row in (before, after) if isinstance(row, dict)]
    if about and not rows:
        raise UnreadableChange("a change event without before and after")
    return list(dict.fromkeys(pair for row in rows for pair in _rows(row, about)))


def _rows(row: dict[str, Any], tables: Any) -> Iterator[tuple[str, str]]:
    for table in tables:
        if _is_key(row.get(table.key)):
            yield table.name, str(row[table.key])


def _payload(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and isinstance(value.get("payload"), dict):
        value = value["payload"]
    if not isinstance(value, dict):
        raise UnreadableChange("not a JSON object")
    return value


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _json(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except msgspec.DecodeError as exc:
        raise UnreadableChange("not JSON") from exc

"""Records that say that rows have changed: our own form and Debezium's, and nothing else."""

from __future__ import annotations

import json

import pytest

from app.enrichment.changes import UnreadableChange, change_key, change_value, parse_change
from tests.enrichment.fakes import ITEMS, USERS

TABLES = {"users": USERS, "items": ITEMS.model_copy(update={"table": "shop.items"})}


def debezium(table: str, op: str, before: object, after: object) -> dict[str, object]:
    return {"op": op, "before": before, "after": after, "source": {"table": table, "schema": "shop", "db": "x"}, "ts_ms": 1}


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


def test_our_own_record_says_table_and_key_also_when_the_key_has_colons() -> None:
    for key in ("42", "a:b", "ü"):
        assert parse_change(change_key("users", key), change_value("users", key), TABLES) == [("users", key)]
        assert parse_change(change_key("users", key), None, TABLES) == [("users", key)], "a tombstone"


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("op", "before", "after", "keys"),
    [
        ("c", None, {"product_id": 7, "price": 1}, ["7"]),
        ("u", {"product_id": 7}, {"product_id": 7}, ["7"]),
        ("u", {"product_id": 7}, {"product_id": 8}, ["7", "8"]),
        ("d", {"product_id": "x"}, None, ["x"]),
    ],
)
def test_a_change_event_of_debezium_speaks_of_the_rows_before_and_after(
    wrapped: bool, op: str, before: object, after: object, keys: list[str]
) -> None:
    event = debezium("items", op, before, after)
    value = {"schema": {}, "payload": event} if wrapped else event
    assert parse_change(b"{}", raw(value), TABLES) == [("items", key) for key in keys]


def test_debeziums_tombstone_speaks_of_the_tables_with_that_key_column() -> None:
    assert parse_change(raw({"user_id": 42}), None, TABLES) == [("users", "42")]
    assert parse_change(raw({"schema": {}, "payload": {"product_id": "p"}}), None, TABLES) == [("items", "p")]


def test_tables_that_nobody_declared_are_nobodys_business() -> None:
    assert parse_change(b"orders:1", None, TABLES) == []
    assert parse_change(None, change_value("orders", "1"), TABLES) == []
    assert parse_change(b"{}", raw(debezium("orders", "c", None, {"id": 1})), TABLES) == []
    assert parse_change(raw({"order_id": 1}), None, TABLES) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, None),
        (b"", b""),
        (b"no colon", None),
        (b"{broken", None),
        (b"users:1", b"{broken"),
        (b"users:1", b"[]"),
        (b"users:1", b'{"table":"users"}'),
        (b"users:1", b'{"table":"users","key":true}'),
        (b"{}", raw(debezium("users", "u", None, None))),
    ],
)
def test_what_cannot_be_understood_is_said_to_be_so_without_its_content(key: bytes | None, value: bytes | None) -> None:
    with pytest.raises(UnreadableChange):
        parse_change(key, value, TABLES)

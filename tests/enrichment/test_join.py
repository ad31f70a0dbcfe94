"""What is added to an event, and which events have to wait."""

from __future__ import annotations

import json
from typing import Any

from app.enrichment.api import Known, Unavailable
from app.enrichment.declaration import ReferenceTable
from app.enrichment.join import NOTHING, Joined, Joiner, TableAnswers, joiner_of
from app.settings import load_settings
from tests.enrichment.fakes import ITEMS, USERS
from tests.enrichment.world import World

PEOPLE = USERS.model_copy(update={"match": "user"})
PRODUCTS = ITEMS.model_copy(update={"match": "item"})
NOW_MS = 1_700_000_000_000


def known(row: dict[str, Any], **changes: Any) -> Known:
    values: dict[str, Any] = {"found": True, "as_of_ms": NOW_MS, "tier": "process"}
    return Known(row, json.dumps(row).encode(), **(values | changes))


def member(joined: Joined, user: str | None, items: tuple[str, ...] = ()) -> Any:
    """The added member, read as JSON."""
    added = joined.member(user, items)
    return json.loads(b"{" + added[1:] + b"}")["reference"] if added else None


def answers(table: ReferenceTable, **by_key: Known | Unavailable) -> TableAnswers:
    return TableAnswers(table, by_key)


def test_a_user_and_every_distinct_item_get_their_rows() -> None:
    joined = Joined(
        [answers(PEOPLE, ann=known({"plan": "plus"}))],
        [answers(PRODUCTS, a=known({"price": 1}), b=known({"price": 2}, found=False))],
    )
    assert member(joined, "ann", ("a", "b", "a")) == {
        "users": {"as_of": NOW_MS, "row": {"plan": "plus"}},
        "items": {
            "a": {"as_of": NOW_MS, "row": {"price": 1}},
            "b": {"as_of": NOW_MS, "found": False, "row": {"price": 2}},
        },
    }


def test_an_anonymous_event_without_items_gets_nothing() -> None:
    assert Joined([answers(PEOPLE, ann=known({}))], [answers(PRODUCTS)]).member(None, ()) == b""
    assert NOTHING.member("ann", ("a",)) == b""


def test_a_key_with_quotes_and_letters_of_any_kind_is_still_json() -> None:
    odd = 'sk"u\\\n\u2603'
    assert list(member(Joined([], [TableAnswers(PRODUCTS, {odd: known({})})]), None, (odd,))["items"]) == [odd]


def test_what_is_stale_or_unavailable_says_so_and_gives_the_default() -> None:
    joined = Joined([answers(PEOPLE, old=known({"plan": "x"}, is_stale=True), gone=Unavailable("database_down"))])
    assert member(joined, "old")["users"]["stale"] is True
    assert member(joined, "gone")["users"] == {
        "unavailable": "database_down",
        "row": {"plan": "unknown", "country": None, "signup_date": None},
    }
    assert joined.unavailable("gone", ()) is None, "the policy of the table is to pass"


def test_only_events_of_a_table_with_the_policy_retry_wait_and_only_for_keys_that_nobody_can_tell() -> None:
    strict = PRODUCTS.model_copy(update={"policy": "retry"})
    joined = Joined([], [answers(strict, a=known({}), b=Unavailable("over_budget"))])
    assert joined.unavailable("ann", ("a",)) is None
    assert joined.unavailable("ann", ("a", "b")) == "over_budget"


async def test_a_joiner_asks_each_table_once_for_the_keys_of_a_batch(world: World) -> None:
    joiner = Joiner({"users": PEOPLE, "items": PRODUCTS, "other": USERS.model_copy(update={"name": "other"})})
    assert await joiner.look_up({"ann"}, ()) is NOTHING, "before the worker has started"
    joiner.cache = world.worker(users=PEOPLE)
    joined = await joiner.look_up(["ann", "bob", "nobody"], ["p000001"])
    assert member(joined, "ann")["users"]["row"]["plan"] in {"plus", "basic"}
    assert member(joined, "nobody")["users"]["found"] is False
    asked = len(world.store.queries)
    assert asked == 2
    await joiner.look_up(["ann", "bob"], ["p000001"])
    assert len(world.store.queries) == asked, "the process has them now"
    await joiner.cache.aclose()


def test_it_is_off_unless_asked_for_and_the_default_tables_are_joined() -> None:
    assert joiner_of(load_settings()) is None
    joiner = joiner_of(load_settings(enrichment_enabled=True))
    assert joiner is not None
    assert {name: table.match for name, table in joiner.tables.items()} == {"users": "user", "items": "item"}

"""What sessions read of an event, and that nothing an event holds can make it fail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.amounts import MAX_SUM, micros, saturate
from app.domain.clickstream import OTHER_CODE, TRACK_CODES, TYPE_CODES
from app.domain.codec import Limits, decode
from app.domain.events import Event, Interaction
from app.domain.session_events import MAX_NAME_CHARS, MAX_PAGE_CHARS, ORDER_COMPLETED, Order, SessionEvent, session_event
from tests.domain.strategies import LIMITS

encode = msgspec.json.encode


def seen(call: dict[str, Any], limits: Limits = LIMITS) -> SessionEvent:
    value = encode(call)
    event = decode(value, limits)
    assert isinstance(event, Event)
    return session_event(Interaction(event, "u:1", b"", 1000, ()), value)


def order(**properties: Any) -> Order | None:
    return seen({"type": "track", "event": "Order Completed", "properties": properties}).order


@pytest.mark.parametrize(
    ("call", "page"),
    [
        ({"context": {"page": {"path": "/a"}}, "properties": {"path": "/b"}, "name": "C"}, "/a"),
        ({"context": {"page": {"path": ""}}, "properties": {"path": "/b"}, "name": "C"}, "/b"),
        ({"context": {}, "name": "C"}, "C"),
        ({"context": None, "properties": None}, None),
        ({"context": "text", "properties": [], "name": 5}, None),
        ({"context": {"page": {"path": 5}}, "properties": {"path": "/b"}}, "/b"),
        ({"name": "x" * 1000}, "x" * MAX_PAGE_CHARS),
    ],
)
def test_the_page_is_the_contexts_else_the_propertys_else_the_calls_name(call: dict[str, Any], page: str | None) -> None:
    value = encode({"type": "page", **call})
    assert session_event(Interaction(Event(type="page"), "u:1", b"", 1, ()), value).page == page


def test_the_name_of_a_track_call_is_no_page() -> None:
    assert seen({"type": "track", "event": "Product Added", "name": "C"}).page is None


def test_events_are_named_by_code_and_long_custom_names_count_with_the_others() -> None:
    assert seen({"type": "screen"}).name == TYPE_CODES["screen"]
    assert seen({"type": "track", "event": "Product Added"}).name == TRACK_CODES["Product Added"]
    assert seen({"type": "track", "event": "x" * MAX_NAME_CHARS}).name == "x" * MAX_NAME_CHARS
    assert seen({"type": "track", "event": "x" * (MAX_NAME_CHARS + 1)}).name == OTHER_CODE


def test_a_completed_order_converts_and_others_do_not() -> None:
    assert seen({"type": "track", "event": "Order Completed"}) == SessionEvent(1000, ORDER_COMPLETED, None, True, Order(0, {}))
    assert seen({"type": "track", "event": "Order Updated", "properties": {"revenue": 5}}) == SessionEvent(
        1000, TRACK_CODES["Order Updated"]
    )


def test_conversions_can_be_other_names() -> None:
    value, interaction = b'{"type":"track"}', Interaction(Event(type="track", event="Signed Up"), "u:1", b"", 1, ())
    assert session_event(interaction, value, frozenset({TRACK_CODES["Signed Up"]})).converts


def test_revenue_is_that_of_the_order_else_its_total() -> None:
    assert order(revenue=19.99, total=25) == Order(19_990_000, {})
    assert order(total="25.10") == Order(25_100_000, {})
    assert order(revenue="much", total=25) == Order(25_000_000, {})
    assert order(revenue=True, total=[25]) == Order(0, {})


def test_units_add_up_by_product_and_a_senseless_quantity_is_one() -> None:
    lines = [
        {"product_id": "a", "quantity": 2},
        {"product_id": 7},
        {"product_id": "a", "quantity": -5},
        {"quantity": 3},
        {"product_id": ""},
    ]
    assert order(products=lines) == Order(0, {"a": 3, "7": 1})


def test_one_field_of_a_wrong_type_does_not_hide_the_others() -> None:
    lines = [{"product_id": "a", "quantity": "2"}, {"product_id": "b", "quantity": 4}]
    assert order(revenue={"amount": 1}, total=3, products=lines) == Order(3_000_000, {"a": 1, "b": 4})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", 1e10, 10**400, "1" * 400, True, None, [], {}, "", "12 EUR"])
def test_what_is_no_amount_is_none(value: object) -> None:
    assert micros(value) is None


def test_amounts_are_rounded_to_a_millionth_and_sums_stop_at_64_bits() -> None:
    assert [micros(value) for value in (1, 0.1, "0.1", -2.5, " 3 ", 0.0000004)] == [
        1_000_000,
        100_000,
        100_000,
        -2_500_000,
        3_000_000,
        0,
    ]
    assert [saturate(value) for value in (5, MAX_SUM + 1, -MAX_SUM - 1)] == [5, MAX_SUM, -MAX_SUM]


odd = st.sampled_from([None, True, 5, -1, 2.5, 10**30, "", "x", "1e3", [], [1], {}, {"path": 1}])
line = odd | st.fixed_dictionaries({"product_id": odd, "quantity": odd})
maybe_typed = st.fixed_dictionaries(
    {},
    optional={
        "name": odd,
        "context": odd | st.fixed_dictionaries({"page": odd | st.fixed_dictionaries({"path": odd})}),
        "properties": odd
        | st.fixed_dictionaries(
            {}, optional={"path": odd, "revenue": odd, "total": odd, "products": odd | st.lists(line, max_size=3)}
        ),
    },
)


@given(maybe_typed, st.sampled_from(["Order Completed", "Custom"]))
def test_no_event_fails_and_what_is_read_can_be_stored(call: dict[str, Any], name: str) -> None:
    event = session_event(Interaction(Event(type="track", event=name), "u:1", b"", 1, ()), encode(call))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=SessionEvent) == event

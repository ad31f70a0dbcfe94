"""An event read with its details is accepted, and seen by sessions, exactly as one whose details are read afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.activities import activities_of
from app.domain.codec import decode
from app.domain.details import DetailedEvent
from app.domain.errors import Rejection
from app.domain.events import Event, Interaction, product_ids
from app.domain.session_events import lines_of, session_event
from tests.domain.strategies import LIMITS, json_values

DETAILED = replace(LIMITS, detailed=True)


def odd(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Nearly always what belongs there."""
    return st.one_of(good, good, good, good, json_values, st.integers(2**63, 2**65))


texts = st.text(max_size=5)
numbers = st.integers(-5, 10) | st.floats(allow_nan=False, allow_infinity=False) | texts
line: dict[str, st.SearchStrategy[Any]] = {
    "product_id": odd(texts | st.integers(-(2**63), 2**63 - 1)), "quantity": odd(st.integers(0, 5) | st.floats(0, 9)),
    "price": odd(numbers), "category": odd(texts),
}  # fmt: skip
properties = st.fixed_dictionaries(
    {},
    optional=line | {
        "path": odd(texts), "revenue": odd(numbers), "total": odd(numbers),
        "products": odd(st.lists(odd(st.fixed_dictionaries({}, optional=line)), max_size=3)),
    },
)  # fmt: skip
context = st.fixed_dictionaries({}, optional={"page": odd(st.fixed_dictionaries({}, optional={"path": odd(texts)}))})
calls = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["track", "page", "screen"]),
        "event": st.sampled_from(["Order Completed", "Product Viewed", "Custom"]),
    },
    optional={
        "messageId": odd(texts), "userId": odd(texts),
        "name": odd(texts), "context": odd(context), "properties": odd(properties), "veltrix": json_values,
    },
)  # fmt: skip


def plain(event: Event) -> Event:
    """Its fields that an ``Event`` has."""
    values = {name: getattr(event, name) for name in Event.__struct_fields__ if name != "properties"}
    return Event(**values)


def seen(event: Event, value: bytes) -> object:
    items = () if event.properties is None else product_ids(event.properties)
    interaction = Interaction(event, "u:1", b"", 1000, items)
    told = session_event(interaction, value)
    return items, told, activities_of(1, "u:1", told, lines_of(interaction, value), 0)


@given(calls)
def test_nothing_depends_on_when_the_details_are_read(call: dict[str, Any]) -> None:
    value = msgspec.json.encode(call)
    early, late = decode(value, DETAILED), decode(value, LIMITS)

    if isinstance(late, Rejection):
        assert early == late
    else:
        assert not isinstance(early, Rejection)
        assert plain(early) == plain(late)
        assert seen(early, value) == seen(late, value)


@pytest.mark.parametrize(
    ("call", "is_detailed"),
    [
        ({"type": "track", "properties": {"revenue": 5, "products": [{"product_id": 1, "quantity": 2}]}}, True),
        ({"type": "track", "properties": {"revenue": []}}, False),
        ({"type": "page", "context": "text"}, False),
    ],
)
def test_only_an_event_whose_details_have_another_type_is_read_twice(call: dict[str, Any], *, is_detailed: bool) -> None:
    assert isinstance(decode(msgspec.json.encode(call), DETAILED), DetailedEvent) is is_detailed


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b'{"type": 5}', b'{"messageId": []}', b"\xff{}"])
def test_what_is_no_event_is_refused_for_the_same_reason(value: bytes) -> None:
    assert isinstance(decode(value, DETAILED), Rejection)
    assert decode(value, DETAILED) == decode(value, LIMITS)

"""Hypothesis strategies for events and JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from app.domain.codec import Limits
from app.domain.events import Event, Product, Properties

LIMITS = Limits(max_event_bytes=32 * 1024, max_id_chars=512, max_age_ms=7 * 86_400_000, max_ahead_ms=300_000, partitions=10)

#: Text that JSON can carry: hypothesis leaves lone surrogates out by default.
texts = st.text(max_size=20)
optional_texts = st.none() | texts
product_ids = st.none() | texts | st.integers(-(2**63), 2**63 - 1)

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=8,
)
json_objects = st.dictionaries(st.sampled_from(["veltrix", "type", "a b", "é"]) | texts, json_values, max_size=6)

properties = st.builds(
    Properties,
    product_id=product_ids,
    products=st.none() | st.lists(st.builds(Product, product_id=product_ids), max_size=3).map(tuple),
)
events = st.builds(
    Event,
    type=optional_texts,
    message_id=optional_texts,
    user_id=optional_texts,
    anonymous_id=optional_texts,
    event=optional_texts,
    timestamp=optional_texts,
    original_timestamp=optional_texts,
    sent_at=optional_texts,
    received_at=optional_texts,
    properties=st.none() | properties,
)

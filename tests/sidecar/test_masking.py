"""What those see of a value who may not see all of it."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters.api import Page
from app.sidecar.dead_letter_views import page_view, record_view
from app.sidecar.masking import MASK, Masks, masked
from tests.sidecar.conftest import dead_letter

SECRET = "ann@example.org"
VALUE = {
    "userId": SECRET,
    "event": "Order Completed",
    "context": {"ip": SECRET, "page": {"path": "/cart"}},
    "properties": {"products": [{"product_id": "p1", "note": SECRET}, {"product_id": "p2", "note": SECRET}], "total": 12.5},
}
PATHS = "userId, context.ip,properties.products.note,$key"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", {"a": MASK, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": {"g": 5}}}),
        ("b.c", {"a": 1, "b": [{"c": MASK, "d": 2}, {"c": MASK}], "e": {"f": {"g": 5}}}),
        ("e.*.g", {"a": 1, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": {"g": MASK}}}),
        ("e.f", {"a": 1, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": MASK}}),
        ("b", {"a": 1, "b": [MASK, MASK], "e": {"f": {"g": 5}}}),
        ("b.*.c", {"a": 1, "b": [{"c": MASK, "d": 2}, {"c": MASK}], "e": {"f": {"g": 5}}}),
        ("b.0.c", {"a": 1, "b": [{"c": MASK, "d": 2}, {"c": MASK}], "e": {"f": {"g": 5}}}),
        ("b.*", {"a": 1, "b": [MASK, MASK], "e": {"f": {"g": 5}}}),
        ("a.x", {"a": 1, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": {"g": 5}}}),
        ("x.y", {"a": 1, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": {"g": 5}}}),
    ],
)
def test_a_path_masks_what_it_leads_to_and_nothing_else(path: str, expected: Any) -> None:
    value = {"a": 1, "b": [{"c": 1, "d": 2}, {"c": 3}], "e": {"f": {"g": 5}}}
    assert masked(value, tuple(path.split("."))) == expected
    assert value["a"] == 1, "a copy"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.lists(st.sampled_from(["a", "b", "c", "*"]), min_size=1, max_size=4))
def test_masking_twice_is_masking_once_and_shapes_stay(value: Any, path: list[str]) -> None:
    once = masked(value, tuple(path))
    assert masked(once, tuple(path)) == once
    if isinstance(value, dict):
        assert once.keys() == value.keys()


def test_a_value_is_seen_without_the_named_fields_whatever_form_it_is_shown_in() -> None:
    whole = record_view(dead_letter(key=SECRET.encode(), value=orjson.dumps(VALUE), headers=[("x-sender", SECRET.encode())]))
    seen = Masks(PATHS).record(whole)
    assert seen.value is not None
    assert seen.value.parsed["properties"] == {
        "products": [{"product_id": "p1", "note": MASK}, {"product_id": "p2", "note": MASK}],
        "total": 12.5,
    }
    assert orjson.loads(b64decode(seen.value.base64)) == orjson.loads(seen.value.text or "") == seen.value.parsed
    assert seen.value.size == len(orjson.dumps(VALUE))
    assert SECRET not in seen.model_dump_json()
    assert (seen.id, seen.reason, seen.source) == (whole.id, whole.reason, whole.source)


@pytest.mark.parametrize("value", [b"", b"\xff", b'{"userId": "ann@exam', b'"ann@example.org"', b"12", None])
def test_what_is_no_json_object_is_not_shown(value: bytes | None) -> None:
    assert Masks("userId").record(record_view(dead_letter(value=value))).value is None


def test_without_paths_of_its_own_a_deployment_shows_no_value_and_every_key() -> None:
    view = record_view(dead_letter(key=b"ann", value=orjson.dumps(VALUE)))
    seen = Masks("*").record(view)
    assert (seen.value, seen.key) == (None, "ann")


def test_lists_hide_keys_if_a_deployment_says_so() -> None:
    page = page_view(Page((dead_letter(key=b"ann"),), None, 1))
    assert [record.key for record in Masks("*").page(page).records] == ["ann"]
    assert [record.key for record in Masks("$key").page(page).records] == [None]

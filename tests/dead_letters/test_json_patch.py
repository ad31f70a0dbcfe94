"""JSON Patch as RFC 6902 has it; the examples are those of its appendix A."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters.json_patch import MAX_OPERATIONS, PatchFailed, apply_patch, check_patch

Patch = list[dict[str, Any]]


def patched(document: Any, patch: Patch) -> Any:
    check_patch(patch)
    return json.loads(apply_patch(json.dumps(document).encode(), patch))


@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo", "foo": "bar"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
        ),
        ({"foo": ["all", "grass", "cows", "eat"]}, [{"op": "move", "from": "/foo/1", "path": "/foo/3"}], {"foo": ["all", "cows", "eat", "grass"]}),
        ({"foo": "bar"}, [{"op": "add", "path": "/child", "value": {"grandchild": {}}}], {"foo": "bar", "child": {"grandchild": {}}}),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}], {"foo": ["bar", ["abc", "def"]]}),
        ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}, {"op": "replace", "path": "/c/b", "value": 2}], {"a": {"b": 1}, "c": {"b": 2}}),
        ({"a": 1}, [{"op": "replace", "path": "", "value": [1]}], [1]),
        ({"a": 1}, [{"op": "test", "path": "", "value": {"a": 1.0}}], {"a": 1}),
        ([1, 2], [{"op": "replace", "path": "/0", "value": None}], [None, 2]),
        ({"": 1}, [{"op": "remove", "path": "/"}], {}),
    ],
)  # fmt: skip
def test_the_examples_of_the_rfc(document: Any, patch: Patch, expected: Any) -> None:
    assert patched(document, patch) == expected


@pytest.mark.parametrize(
    ("document", "patch"),
    [
        ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}]),
        ({"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}]),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}]),
        ({"a": 1}, [{"op": "test", "path": "/a", "value": True}]),
        ({"a": 1}, [{"op": "remove", "path": "/b"}]),
        ({"a": 1}, [{"op": "replace", "path": "/b", "value": 1}]),
        ([1], [{"op": "add", "path": "/2", "value": 1}]),
        ([1], [{"op": "remove", "path": "/-"}]),
        ([1], [{"op": "remove", "path": "/01"}]),
        ([1], [{"op": "remove", "path": "/x"}]),
        ({"a": {}}, [{"op": "move", "from": "/a", "path": "/a/b"}]),
        ({"a": "text"}, [{"op": "add", "path": "/a/0", "value": 1}]),
        ({"a": "text"}, [{"op": "remove", "path": "/a/0"}]),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(document: Any, patch: Patch) -> None:
    with pytest.raises(PatchFailed, match="operation 0"):
        patched(document, patch)


@pytest.mark.parametrize(
    "patch",
    [
        [], [{}], [{"op": "increment", "path": "/a"}], [{"op": "add", "path": "/a"}], [{"op": "move", "path": "/a"}],
        [{"op": "remove"}], [{"op": "remove", "path": "a"}], [{"op": "remove", "path": 5}],
        [{"op": "remove", "path": "/a"}] * (MAX_OPERATIONS + 1),
    ],
)  # fmt: skip
def test_what_is_no_patch_is_refused_before_it_meets_a_document(patch: Patch) -> None:
    with pytest.raises(PatchFailed):
        check_patch(patch)


@pytest.mark.parametrize("raw", [None, b"", b"{", b"\xff"])
def test_a_value_that_is_no_json_is_not_patched(raw: bytes | None) -> None:
    with pytest.raises(PatchFailed, match="not JSON"):
        apply_patch(raw, [{"op": "add", "path": "/a", "value": 1}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(document=st.dictionaries(st.text(max_size=3), JSON, max_size=4), name=st.text(max_size=3), value=JSON)
def test_what_is_added_can_be_tested_and_taken_away_again(document: dict[str, Any], name: str, value: Any) -> None:
    path = "/" + name.replace("~", "~0").replace("/", "~1")
    added = patched(document, [{"op": "add", "path": path, "value": value}, {"op": "test", "path": path, "value": value}])
    assert added == document | {name: value}
    assert patched(added, [{"op": "remove", "path": path}]) == {key: held for key, held in document.items() if key != name}

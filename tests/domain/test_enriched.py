"""The enriched value is the original object plus one member."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.codec import decode
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from tests.domain.strategies import LIMITS, json_objects

spaces = st.text(" \t\r\n", max_size=3).map(str.encode)
numbers = st.integers(1, 2**53)


@given(json_objects, st.sampled_from([None, 1]), spaces, spaces, numbers, st.integers(0, 2**45))
def test_the_result_is_the_original_plus_our_member(
    original: dict[str, Any], indent: int | None, before: bytes, after: bytes, sequence: int, received_ms: int
) -> None:
    value = before + json.dumps(original, indent=indent).encode() + after
    has_member = "veltrix" in original

    result = json.loads(enrich(value, sequence, received_ms, has_member))

    assert result == original | {"veltrix": {"sequence": sequence, "received_at": received_ms}}


@given(json_objects)
def test_the_member_is_always_the_only_one_of_its_name(original: dict[str, Any]) -> None:
    value = json.dumps({"messageId": "m"} | {name: v for name, v in original.items() if name == "veltrix"}).encode()
    event = decode(value, LIMITS)
    assert not isinstance(event, Rejection)

    pairs = json.loads(enrich(value, 1, 2, event.has_veltrix), object_pairs_hook=list)

    assert [name for name, _ in pairs].count("veltrix") == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b'{"a":1}', b'{"a":1,"veltrix":{"sequence":3,"received_at":9}}'),
        (b'{"a":1.50}\n', b'{"a":1.50,"veltrix":{"sequence":3,"received_at":9}}'),
        (b' {"a":{} }', b'{"a":{},"veltrix":{"sequence":3,"received_at":9}}'),
        (b"{}", b'{"veltrix":{"sequence":3,"received_at":9}}'),
        (b"{ \n}\t", b'{"veltrix":{"sequence":3,"received_at":9}}'),
    ],
)
def test_the_senders_bytes_are_copied(value: bytes, expected: bytes) -> None:
    assert enrich(value, 3, 9, has_member=False) == expected


def test_a_member_of_our_name_is_replaced_and_its_neighbours_keep_their_bytes() -> None:
    value = b'{"a":1.50,"\\u0076eltrix":{"sequence":99},"b":[ 1 ]}'
    assert enrich(value, 3, 9, has_member=True) == b'{"a":1.50,"b":[ 1 ],"veltrix":{"sequence":3,"received_at":9}}'

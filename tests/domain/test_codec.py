"""Bytes to events: every defect has its reason, nothing raises, nothing of the payload leaks into a message."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.codec import MAX_DEPTH, Limits, decode, encode
from app.domain.errors import Reason, Rejection
from app.domain.events import Event
from tests.domain.strategies import LIMITS, events, json_objects

EVENT = b'{"type":"track","messageId":"m-1","userId":"u-1","event":"Product Viewed","properties":{"product_id":"sku-1"}}'
MARK = "s3cret"


def refused(value: bytes | None, limits: Limits = LIMITS) -> Rejection:
    result = decode(value, limits)
    assert isinstance(result, Rejection), result
    return result


def nested(levels: int) -> bytes:
    """An event that is ``levels`` deep, itself included."""
    return b'{"pad":"' + b"x" * 600 + b'","x":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@given(events)
def test_decoding_what_was_encoded_gives_the_same_event(event: Event) -> None:
    assert decode(encode(event), LIMITS) == event


@given(json_objects)
def test_unknown_members_change_nothing(extra: dict[str, object]) -> None:
    known = json.loads(EVENT)
    renamed = {f"x-{name}": value for name, value in extra.items()}
    assert decode(json.dumps(renamed | known).encode(), LIMITS) == decode(EVENT, LIMITS)


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_input_raises(value: bytes) -> None:
    assert isinstance(decode(value, LIMITS), Event | Rejection)


@pytest.mark.parametrize("length", range(len(EVENT)))
def test_every_truncation_is_refused_at_decode(length: int) -> None:
    rejection = refused(EVENT[:length])
    assert rejection.reason is (Reason.INVALID_JSON if length else Reason.EMPTY_VALUE)
    assert rejection.stage == "decode"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.EMPTY_VALUE),
        (b"", Reason.EMPTY_VALUE),
        (b'{"name":"\xff' + MARK.encode() + b'"}', Reason.NOT_UTF8),  # in a member nobody looks into
        (b'{"userId":"' + MARK.encode() + b'\xff"}', Reason.NOT_UTF8),
        (MARK.encode(), Reason.INVALID_JSON),
        (b" ", Reason.INVALID_JSON),
        (b'{"userId":"s3cret"} {}', Reason.INVALID_JSON),
        (b'{"x":NaN}', Reason.INVALID_JSON),
        (b'\xef\xbb\xbf{"userId":"s3cret"}', Reason.INVALID_JSON),  # a byte order mark
        (b'{"userId":7,"s3cret":', Reason.INVALID_JSON),  # a wrong type in broken JSON is broken JSON
        (b'{"userId":7,"s3cret":"s3cret"}', Reason.WRONG_TYPE),
        (b'{"messageId":["s3cret"]}', Reason.WRONG_TYPE),
        (b'{"timestamp":1767608553123}', Reason.WRONG_TYPE),
        (b'{"properties":{"products":[{"product_id":{"s3cret":1}}]}}', Reason.WRONG_TYPE),
        (b'{"properties":{"product_id":1e400}}', Reason.WRONG_TYPE),
        (b'{"properties":{"product_id":' + b"9" * 5000 + b"}}", Reason.WRONG_TYPE),
        (b'["s3cret"]', Reason.WRONG_TYPE),
        (b"null", Reason.WRONG_TYPE),
        (b'"s3cret"', Reason.WRONG_TYPE),
    ],
)
def test_each_defect_has_its_reason_and_keeps_the_payload_to_itself(value: bytes | None, reason: Reason) -> None:
    rejection = refused(value)
    assert rejection.reason is reason
    assert rejection.disposition == "invalid"
    assert rejection.stage == ("validate" if reason is Reason.WRONG_TYPE else "decode")
    assert rejection.message
    assert MARK not in rejection.message


def test_a_wrong_type_names_its_path() -> None:
    value = b'{"properties":{"products":[{"product_id":"a"},{"product_id":true}]}}'
    assert refused(value).message.endswith("`$.properties.products[1].product_id`")


def test_the_size_limit_is_inclusive_and_filed_apart() -> None:
    exact = Limits(len(EVENT), 512, 1, 1, 1)
    assert isinstance(decode(EVENT, exact), Event)
    rejection = refused(EVENT + b" ", exact)
    assert (rejection.reason, rejection.stage, rejection.disposition) == (Reason.OVERSIZE, "decode", "oversize")


def test_an_oversize_value_is_not_parsed() -> None:
    assert refused(b"\xff" * 33_000).reason is Reason.OVERSIZE


def test_the_depth_limit_is_inclusive() -> None:
    assert isinstance(decode(nested(MAX_DEPTH), LIMITS), Event)
    assert refused(nested(MAX_DEPTH + 1)).reason is Reason.NESTED_TOO_DEEP


@pytest.mark.parametrize("value", [b"[" * 32_000, b'{"a":' * 6_000, b'{"x":"\\' + b"[" * 600])
def test_a_bracket_bomb_never_reaches_the_recursion_limit(value: bytes) -> None:
    assert refused(value).stage == "decode"


def test_brackets_inside_strings_are_not_depth() -> None:
    value = json.dumps({"x": '["{\\' * 400, "y": [[]]}).encode()
    assert isinstance(decode(value, LIMITS), Event)


def test_a_member_of_our_name_is_seen_also_when_it_is_escaped() -> None:
    plain, escaped, without = (decode(v, LIMITS) for v in (b'{"veltrix":1}', b'{"\\u0076eltrix":null}', b'{"x":{"veltrix":1}}'))
    assert isinstance(plain, Event)
    assert isinstance(escaped, Event)
    assert isinstance(without, Event)
    assert (plain.has_veltrix, escaped.has_veltrix, without.has_veltrix) == (True, True, False)

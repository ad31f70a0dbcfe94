"""Fetch requests and responses by hand are those of aiokafka's schemas, both ways."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pytest
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v11, FetchResponse_v11
from hypothesis import given
from hypothesis import strategies as st

from app.engine.fetch_codec import decode_response, encode_request

int32, int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
count = st.integers(0, 2**31 - 1)
name = st.text(max_size=20)
partition = st.tuples(
    int32, st.integers(-(2**15), 2**15 - 1), int64, int64, int64, st.none() | st.lists(st.tuples(int64, int64), max_size=3), int32,
    st.none() | st.binary(max_size=40),
)  # fmt: skip
topics = st.lists(st.tuples(name, st.lists(partition, max_size=4)), max_size=3)
wanted = st.lists(st.tuples(name, st.lists(st.tuples(count, int64, count), max_size=4)), max_size=3)


def schema_encode(struct_: Any) -> bytes:
    """As aiokafka does it, whatever is installed."""
    encoded: bytes = struct_.SCHEMA.encode([struct_.__dict__[each] for each in struct_.SCHEMA.names])
    return encoded


@given(topics=topics, throttle=int32, session=int32, header=st.binary(max_size=8))
def test_a_response_is_decoded_as_its_schema_does(topics: list[Any], throttle: int, session: int, header: bytes) -> None:
    raw = schema_encode(FetchResponse_v11(throttle, 0, session, topics))
    rest = BytesIO(header + raw)
    rest.seek(len(header))

    for found in (decode_response(FetchResponse_v11, raw), decode_response(FetchResponse_v11, rest)):
        assert (found.throttle_time_ms, found.error_code, found.session_id, found.topics) == (throttle, 0, session, topics)


@given(topics=wanted, wait_ms=count, isolation=st.integers(0, 1), rack=name)
def test_a_request_is_encoded_as_its_schema_does(topics: list[Any], wait_ms: int, isolation: int, rack: str) -> None:
    request = FetchRequest(wait_ms, 1, 50_000_000, isolation, topics, rack).build(FetchRequest_v11)

    assert encode_request(request) == schema_encode(request)


def test_a_response_that_is_cut_off_anywhere_is_an_error() -> None:
    raw = schema_encode(
        FetchResponse_v11(0, 0, 0, [("t", [(0, 0, 1, 1, 0, [(5, 6)], -1, b"records"), (1, 0, 1, 1, 0, [], -1, b"r")])])
    )

    for size in range(len(raw)):
        with pytest.raises((struct.error, ValueError)):
            decode_response(FetchResponse_v11, raw[:size])

"""Produce requests by hand are those of aiokafka's schema."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.produce import ProduceRequest, ProduceRequest_v7
from hypothesis import given
from hypothesis import strategies as st

from app.engine.produce_codec import encode_request

name = st.text(max_size=20)
records = st.binary(max_size=40) | st.binary(max_size=40).map(bytearray)
topics = st.lists(st.tuples(name, st.lists(st.tuples(st.integers(0, 2**31 - 1), records), max_size=4)), max_size=3)


@given(topics=topics, transactional_id=st.none() | name, acks=st.sampled_from([-1, 0, 1]), timeout_ms=st.integers(0, 2**31 - 1))
def test_a_request_is_encoded_as_its_schema_does(
    topics: list[Any], transactional_id: str | None, acks: int, timeout_ms: int
) -> None:
    request = ProduceRequest(transactional_id, acks, timeout_ms, topics).build(ProduceRequest_v7)
    by_schema = request.SCHEMA.encode([request.__dict__[each] for each in request.SCHEMA.names])

    assert encode_request(request) == by_schema

"""Our own request for topic ids: as Kafka's protocol guide has it, byte for byte."""

from __future__ import annotations

import struct
import uuid
from io import BytesIO

import pytest

from app.kafka_topic_ids import NO_TOPIC_ID, TopicIdsRequest, TopicIdsResponse

VERSIONS = {3: (0, 13)}


def test_the_request_names_topics_and_forbids_their_creation() -> None:
    prepared = TopicIdsRequest(["ab"]).prepare(VERSIONS)

    # array of 1, null id, compact "ab", no tags; no creation, no authorized operations, no tags
    assert prepared.encode() == b"\x02" + NO_TOPIC_ID + b"\x03ab\x00" + b"\x00\x00\x00" + b"\x00"
    header = prepared.build_request_header(correlation_id=7, client_id="me")
    assert header.encode() == struct.pack(">hhih", 3, 10, 7, 2) + b"me\x00"


def test_an_old_broker_is_known_before_anything_is_sent() -> None:
    with pytest.raises(NotImplementedError):
        TopicIdsRequest(["ab"]).prepare({3: (0, 9)})


def test_the_answer_is_read_to_its_last_byte() -> None:
    topic_id = uuid.uuid4().bytes
    broker = struct.pack(">i", 1) + b"\x05host" + struct.pack(">i", 9092) + b"\x00" + b"\x00"
    partition = struct.pack(">hiii", 0, 0, 1, 5) + (b"\x02" + struct.pack(">i", 1)) * 2 + b"\x01" + b"\x00"
    topic = struct.pack(">h", 0) + b"\x03ab" + topic_id + b"\x00" + b"\x02" + partition + struct.pack(">i", -(2**31)) + b"\x00"
    raw = (
        struct.pack(">i", 0)
        + b"\x02"
        + broker
        + b"\x03cl"
        + struct.pack(">i", 1)
        + b"\x02"
        + topic
        + struct.pack(">i", -(2**31))
        + b"\x00"
    )
    data = BytesIO(raw)

    answer = TopicIdsResponse.decode(data).to_object()

    assert data.read() == b""
    assert (answer["topics"][0]["topic"], answer["topics"][0]["topic_id"]) == ("ab", topic_id)
    assert answer["topics"][0]["partitions"][0]["leader_epoch"] == 5

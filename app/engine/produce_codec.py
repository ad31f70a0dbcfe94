"""Produce requests, written by hand.

aiokafka's schema classes join the records of a request once per level of its structure: six copies of half a megabyte, 4 %
of a worker under drain (measured). ``install`` replaces the encoder for the process and for version 7, which every
broker since Kafka 2.1 speaks; other versions stay aiokafka's. A property test compares both.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final

from aiokafka.protocol.produce import ProduceRequest_v7

_INT16, _INT32 = Struct(">h"), Struct(">i")
#: required_acks, timeout, number of topics
_REQUEST: Final = Struct(">hii")
#: partition, size of its records
_PARTITION: Final = Struct(">ii")


def install() -> None:
    """Use it from now on."""
    ProduceRequest_v7.encode = encode_request


def encode_request(self: Any) -> bytes:
    """As ``Struct.encode``."""
    of = self.__dict__
    parts = [_string(of["transactional_id"]), _REQUEST.pack(of["required_acks"], of["timeout"], len(of["topics"]))]
    for topic, partitions in of["topics"]:
        parts += [_string(topic), _INT32.pack(len(partitions))]
        for partition, records in partitions:
            parts += [_PARTITION.pack(partition, len(records)), records]
    return b"".join(parts)


def _string(text: str | None) -> bytes:
    if text is None:
        return _INT16.pack(-1)
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded

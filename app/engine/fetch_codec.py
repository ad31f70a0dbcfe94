"""Fetch requests and responses, written and read by hand.

At low rates a worker fetches some hundred times a second, and each request and response names every partition.
aiokafka takes them apart field by field through its schema classes: 8 % of such a worker's time (measured), and
precompiled structs need a fifth of it. ``install`` replaces both for the process and for version 11, which every broker
since Kafka 2.3 speaks; other versions stay aiokafka's. The layout is that of aiokafka's schemas (Kafka's protocol guide);
a property test compares both ways.
"""

from __future__ import annotations

from io import BytesIO
from struct import Struct
from typing import Any, Final

from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11

_INT16, _INT32 = Struct(">h"), Struct(">i")
#: replica_id, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch, number of topics
_REQUEST: Final = Struct(">iiiibiii")
_REQUEST_FIELDS: Final = FetchRequest_v11.SCHEMA.names[:7]
#: partition, current_leader_epoch, offset, log_start_offset, max_bytes
_WANTED: Final = Struct(">iiqqi")
#: throttle_time_ms, error_code, session_id, number of topics
_RESPONSE: Final = Struct(">ihii")
#: partition, error_code, highwater, last_stable_offset, log_start_offset, number of aborted transactions; without any
#: follow preferred_read_replica and the size of the records
_PARTITION: Final = Struct(">ihqqqiii")
_TO_ABORTED: Final = Struct(">ihqqqi").size
#: producer_id, first_offset
_ABORTED: Final = Struct(">qq")
#: preferred_read_replica, size of the records
_RECORDS: Final = Struct(">ii")


def install() -> None:
    """Use them from now on."""
    FetchRequest_v11.encode = encode_request
    FetchResponse_v11.decode = classmethod(decode_response)


def encode_request(self: Any) -> bytes:
    """As ``Struct.encode``, for a request that forgets no topics (those are for fetch sessions, which aiokafka has none of)."""
    of = self.__dict__
    assert not of["forgotten_topics_data"]
    parts = [_REQUEST.pack(*[of[name] for name in _REQUEST_FIELDS], len(of["topics"]))]
    for topic, partitions in of["topics"]:
        parts += [_string(topic), _INT32.pack(len(partitions))]
        parts += [_WANTED.pack(*wanted) for wanted in partitions]
    parts += [_INT32.pack(0), _string(of["rack_id"])]
    return b"".join(parts)


def decode_response(cls: Any, data: BytesIO | bytes) -> Any:
    """As ``Struct.decode``; of a ``BytesIO``, what is left in it.

    Raises:
        struct.error, ValueError: the response is cut off.
    """
    raw, at = (data, 0) if isinstance(data, bytes) else (data.getvalue(), data.tell())
    throttle_ms, error, session, count = _RESPONSE.unpack_from(raw, at)
    at += _RESPONSE.size
    topics = []
    for _ in range(count):
        (length,) = _INT16.unpack_from(raw, at)
        at += _INT16.size
        name = raw[at : at + length].decode()
        partitions, at = _partitions(raw, at + length)
        topics.append((name, partitions))
    if at > len(raw):
        raise ValueError(f"a fetch response of {len(raw)} bytes should have {at}")
    return cls(throttle_ms, error, session, topics)


def _partitions(raw: bytes, at: int) -> tuple[list[tuple[Any, ...]], int]:
    """The partitions of one topic from ``at`` on, and where they end."""
    (count,) = _INT32.unpack_from(raw, at)
    at += _INT32.size
    found = []
    unpack, size_of = _PARTITION.unpack_from, _PARTITION.size
    for _ in range(count):
        partition, error, highwater, stable, start, aborted, replica, size = unpack(raw, at)
        transactions: list[tuple[int, ...]] | None = None if aborted < 0 else []
        if aborted > 0:
            at += _TO_ABORTED
            transactions = [_ABORTED.unpack_from(raw, at + n * _ABORTED.size) for n in range(aborted)]
            at += aborted * _ABORTED.size
            replica, size = _RECORDS.unpack_from(raw, at)
            at += _RECORDS.size
        else:
            at += size_of
        records = None
        if size >= 0:
            records = raw[at : at + size]
            at += size
        found.append((partition, error, highwater, stable, start, transactions, replica, records))
    return found, at


def _string(text: str) -> bytes:
    encoded = text.encode()
    return _INT16.pack(len(encoded)) + encoded

"""Dead letters by the thousand, as the index gets them."""

from __future__ import annotations

from typing import Any

from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.decode import decode_dead_letter
from app.engine.api import Failure
from tests.dead_letters.records import FAILED_AT_MS, FakeRecord, encoder

QUEUE = "dlq.veltrix.interactions"
_encoder = encoder()


def letter(
    offset: int = 0, *, partition: int = 0, at_ms: int = FAILED_AT_MS, reason: str = "bad_json", value: bytes = b"{}", **record: Any
) -> DeadLetterRecord:
    """A dead letter as it is read from its queue."""
    source = FakeRecord(partition=partition, offset=1000 + offset, value=value, **record)
    sent = _encoder(source, Failure("decode", reason, f"{reason}: no JSON"), at_ms)
    return decode_dead_letter(FakeRecord(QUEUE, partition, offset, sent.key, sent.value, at_ms, 0, sent.headers))

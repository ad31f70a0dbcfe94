"""Bytes to events and back. Decoding never raises for bad input: it returns why it was refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from app.domain.details import DetailedEvent
from app.domain.errors import Reason, Rejection
from app.domain.events import Event

#: Deepest nesting accepted. Without a bound of our own the interpreter's recursion limit would decide, at a
#: depth that depends on the caller's stack: the same record could pass here and fail there.
MAX_DEPTH: Final = 512

_decode_event: Final = msgspec.json.Decoder(Event).decode
_decode_detailed: Final = msgspec.json.Decoder(DetailedEvent).decode
_check_syntax: Final = msgspec.json.Decoder(msgspec.Raw).decode
_encode: Final = msgspec.json.Encoder().encode
_STRINGS: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[{\]}]")


@dataclass(frozen=True, slots=True)
class Limits:
    """What is accepted from a source topic of ``partitions`` partitions. Times in ms, sizes in bytes or characters."""

    max_event_bytes: int
    max_id_chars: int
    max_age_ms: int
    max_ahead_ms: int
    partitions: int
    detailed: bool = False
    """Read what sessions and windows want to know with the event (``details``), where it has the right types"""


def decode(value: bytes | None, limits: Limits) -> Event | Rejection:
    """Decode one record value. Size, encoding, syntax and types are checked, in this order."""
    if not value:
        return Rejection(Reason.EMPTY_VALUE, "the record has no value")
    size = len(value)
    if size > limits.max_event_bytes:
        return Rejection(Reason.OVERSIZE, f"{size} bytes, the limit is {limits.max_event_bytes}")
    # A value of depth n has at least n brackets; short values cannot reach the bound nor the recursion limit.
    if size > 2 * MAX_DEPTH and value.count(b"{") + value.count(b"[") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        return Rejection(Reason.NESTED_TOO_DEEP, f"more than {MAX_DEPTH} levels of nesting")
    if not value.isascii() and (rejection := _not_utf8(value)) is not None:
        return rejection
    if limits.detailed:
        try:
            return _decode_detailed(value)
        except msgspec.MsgspecError:
            pass  # details of another type are no reason to refuse it; any other defect is found again below
    try:
        return _decode_event(value)
    except msgspec.ValidationError as exc:
        return _syntax_error(value) or Rejection(Reason.WRONG_TYPE, str(exc))
    except msgspec.DecodeError as exc:
        return Rejection(Reason.INVALID_JSON, str(exc))


def encode(event: Event) -> bytes:
    """The event as JSON, fields that are not set left out."""
    return _encode(event)


def _not_utf8(value: bytes) -> Rejection | None:
    """The decoder skips unknown fields without looking at their encoding, so the whole value is checked here."""
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as exc:
        return Rejection(Reason.NOT_UTF8, f"invalid UTF-8 at byte {exc.start}")
    return None


def _syntax_error(value: bytes) -> Rejection | None:
    """The decoder stops at the first wrong type; broken syntax behind it is the more basic defect."""
    try:
        _check_syntax(value)
    except msgspec.DecodeError as exc:
        return Rejection(Reason.INVALID_JSON, str(exc))
    return None


def _depth(value: bytes) -> int:
    depth = deepest = 0
    for bracket in _BRACKETS.findall(_STRINGS.sub(b"", value)):
        depth += 1 if bracket in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest

"""The enriched event: the original bytes plus ``"veltrix":{"sequence":n,"received_at":ms}``.

The member is spliced in before the final brace, so the rest is a copy of what the sender wrote: a pure
function of the record and the user's state, and several times cheaper than encoding the event again.
"""

from __future__ import annotations

from typing import Final

import msgspec

MEMBER: Final = "veltrix"

_WHITESPACE: Final = b" \t\r\n"
#: A last byte before the final brace that does not end a member: white space, or the brace that opens ``{}``.
_NOT_A_MEMBER: Final = b" \t\r\n{"
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def enrich(value: bytes, sequence: int, received_ms: int, has_member: bool, more: bytes = b"") -> bytes:
    """Add our member to a JSON object.

    Args:
        value: one valid JSON object, white space around it allowed.
        sequence: the user's n-th unique event, from 1.
        received_ms: the record's timestamp, epoch ms.
        has_member: the object already has a ``veltrix`` member at the top; it is replaced.
        more: JSON members of ours, each with a comma before it.
    """
    if has_member:
        value = _without_member(value)
    if value[-1] != 0x7D or value[-2] in _NOT_A_MEMBER:
        return _enrich_spaced(value.strip(_WHITESPACE), sequence, received_ms, more)
    return b'%b,"veltrix":{"sequence":%d,"received_at":%d%b}}' % (value[:-1], sequence, received_ms, more)


def _enrich_spaced(value: bytes, sequence: int, received_ms: int, more: bytes) -> bytes:
    members = value[:-1].rstrip(_WHITESPACE)
    comma = b"" if members == b"{" else b","
    return b'%b%b"veltrix":{"sequence":%d,"received_at":%d%b}}' % (members, comma, sequence, received_ms, more)


def _without_member(value: bytes) -> bytes:
    """The object encoded again without our member; the values of the others are copied byte for byte."""
    members = _members(value)
    members.pop(MEMBER, None)
    return _encode(members)

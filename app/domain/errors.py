"""Why an event is refused: one named reason per kind of defect.

Everything here is a property of the record, so a retry cannot help: such a record becomes a dead letter.

    decode    the bytes are not one JSON value of acceptable size
    validate  the JSON is not an event that we accept, or its record is in the wrong place
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal

import msgspec

Stage = Literal["decode", "validate"]
Disposition = Literal["invalid", "oversize"]


class Reason(StrEnum):
    """The name of a defect, as dead letters, metrics and runbooks use it."""

    EMPTY_VALUE = "empty_value"
    OVERSIZE = "oversize"
    NOT_UTF8 = "not_utf8"
    INVALID_JSON = "invalid_json"
    NESTED_TOO_DEEP = "nested_too_deep"

    WRONG_TYPE = "wrong_type"
    UNKNOWN_TYPE = "unknown_type"
    MISSING_MESSAGE_ID = "missing_message_id"
    MISSING_IDENTITY = "missing_identity"
    MISSING_EVENT_NAME = "missing_event_name"
    ID_TOO_LONG = "id_too_long"
    BAD_TIMESTAMP = "bad_timestamp"
    TOO_OLD = "too_old"
    TOO_FAR_AHEAD = "too_far_ahead"
    KEY_MISMATCH = "key_mismatch"
    MISROUTED = "misrouted"


_DECODE_REASONS: Final = frozenset(
    {Reason.EMPTY_VALUE, Reason.OVERSIZE, Reason.NOT_UTF8, Reason.INVALID_JSON, Reason.NESTED_TOO_DEEP}
)


class Rejection(msgspec.Struct, frozen=True, gc=False):
    """An event that is refused. ``message`` names fields, limits and positions, never payload text."""

    reason: Reason
    message: str

    @property
    def stage(self) -> Stage:
        """Where in the pipeline the defect was found."""
        return "decode" if self.reason in _DECODE_REASONS else "validate"

    @property
    def disposition(self) -> Disposition:
        """How the dead letter is filed: ``oversize`` apart, because its repair is a limit and not an edit."""
        return "oversize" if self.reason is Reason.OVERSIZE else "invalid"

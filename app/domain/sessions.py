"""Sessions of a user by event time: a gap ends one, the watermark closes it, the order of arrival does not matter.

Two events belong together when they are less than ``gap_ms`` apart: exactly the gap makes two sessions. One is closed
when the watermark is at or past its last event plus the gap: no on-time event can join it then.

No session is as long as ``max_length_ms``, and none shorter than half of it is ever cut. Time is divided into cells of
half that length, and a state holds one part per cell and stretch of activity. A session is the parts of two cells,
counted from the one it starts in; activity that goes on is the next session. Cells are fixed, so a part never has to
be cut, and which cells pair up depends on the first event alone, which is final before the pair is closed.

Late events: the session that one belongs to is published again, ``revision`` one higher, while the watermark is less
than ``allowed_lateness_ms`` past its closing. Later than that, an event is late, unless a kept part spans it. It never
moves a cut that was published. Two published sessions that a late event bridges become the earlier one; the other is
published a last time, with ``merged_into_ms``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from app.domain.clickstream import NAMES, OTHER_NAME
from app.domain.damage import DamagedState
from app.domain.session_parts import SessionPart
from app.domain.watermarks import LatePolicy

VERSION: Final = 1
#: Due time of a state with nothing to close.
NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """When a session ends. Changing the length while sessions are open may cut those once more.

    Raises:
        ValueError: a gap that is not positive, or a length below twice the gap.
    """

    gap_ms: int = 30 * 60_000
    max_length_ms: int = 24 * 3_600_000
    allowed_lateness_ms: int = 0
    late: LatePolicy = LatePolicy.DROP
    #: Half the length: the grid that long sessions are cut on.
    cell_ms: int = field(init=False)

    def __post_init__(self) -> None:
        if self.gap_ms <= 0 or self.max_length_ms < 2 * self.gap_ms:
            raise ValueError(
                f"session max_length_ms {self.max_length_ms} must be at least twice gap_ms {self.gap_ms}, which is above 0"
            )
        object.__setattr__(self, "cell_ms", self.max_length_ms // 2)


class UserSessions(msgspec.Struct, gc=False, array_like=True):
    """What is stored of one user: parts by start, never changed once stored."""

    version: int = VERSION
    #: From this watermark on, ``SessionFold.close`` has something to do for this user.
    due_ms: int = NEVER
    parts: list[SessionPart] = []


class ClosedSession(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One published session, identified by user and ``session_ms``; a higher revision replaces a lower one."""

    user: str
    #: Its start when it was first published: stays when late events move the start.
    session_ms: int
    revision: int
    start_ms: int
    #: Time of the last event.
    end_ms: int
    events: int
    counts: dict[str, int]
    #: It reached the length limit: activity may go on in the next session.
    is_cut: bool = False
    is_converted: bool = False
    entry_page: str | None = None
    exit_page: str | None = None
    orders: int = 0
    #: In millionths.
    revenue_micros: int = 0
    units: int = 0
    #: Units by product id, the first in the alphabet.
    products: dict[str, int] = {}
    #: All of it is now in that session of the user, and this one is void.
    merged_into_ms: int | None = None


class UnreadableSessionsError(DamagedState):
    """Stored sessions have a format version that this build does not know.

    Operator action: run a build at least as new as the one that wrote them.
    """

    def __init__(self, version: object) -> None:
        super().__init__(f"stored sessions have format version {version}, this build reads up to {VERSION}")
        self.version = version


#: As it is published: a JSON object.
encode_session: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(UserSessions).decode


def decode_sessions(raw: bytes) -> UserSessions:
    """Read a stored value of any known version.

    Raises:
        UnreadableSessionsError: a newer build wrote it.
        msgspec.DecodeError: it is not stored sessions at all.
    """
    state = _decode(raw)
    if state.version != VERSION:
        raise UnreadableSessionsError(state.version)
    return state


def live_session(state: UserSessions) -> dict[str, Any] | None:
    """The session that is open, or was last, as lookups show it; of one that is longer than a cell its latest part."""
    if not state.parts:
        return None
    part = state.parts[-1]
    return {
        "start_ms": part.start_ms,
        "last_ms": part.last_ms,
        "events": part.events,
        "entry_page": part.entry_page,
        "exit_page": part.exit_page,
        "is_converted": part.is_converted,
        "orders": part.orders,
        "revenue_micros": part.revenue,
    }


def closed_session(user_key: str, session_ms: int, revision: int, part: SessionPart, is_cut: bool) -> ClosedSession:
    """What is published of the events that ``part`` counts."""
    return ClosedSession(
        user_key,
        session_ms,
        revision,
        part.start_ms,
        part.last_ms,
        part.events,
        _public_counts(part),
        is_cut,
        part.is_converted,
        part.entry_page,
        part.exit_page,
        part.orders,
        part.revenue,
        part.units,
        dict(sorted(part.products.items())),
    )


def _public_counts(part: SessionPart) -> dict[str, int]:
    """Counts by public name, sorted, so that equal sessions are equal bytes."""
    counts: dict[str, int] = {}
    for code, number in part.counts.items():
        name = code if isinstance(code, str) else NAMES.get(code, f"${code}")
        counts[name] = counts.get(name, 0) + number
    unlisted = part.events - sum(counts.values())
    if unlisted:
        counts[OTHER_NAME] = counts.get(OTHER_NAME, 0) + unlisted
    return dict(sorted(counts.items()))


def merged_session(session_ms: int, part: SessionPart, user_key: str) -> ClosedSession:
    """The last revision of the session that ``part`` was published with: void, its events are in another one now."""
    return ClosedSession(user_key, part.id_ms, part.revision, part.start_ms, part.last_ms, 0, {}, merged_into_ms=session_ms)

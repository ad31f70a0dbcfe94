"""Sessions of a user by event time: a gap ends one, the watermark closes it, the order of arrival does not matter.

    (sessions of a user, event, watermark) -> (sessions, closed ones, too late or not)

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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from app.domain.clickstream import NAMES, OTHER_NAME
from app.domain.damage import DamagedState
from app.domain.session_events import SessionEvent
from app.domain.session_parts import NOT_PUBLISHED, SessionPart, absorb, copy_part, count, new_part
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


def step(
    state: UserSessions | None, user_key: str, event: SessionEvent, watermark_ms: int, policy: SessionPolicy
) -> tuple[UserSessions | None, list[ClosedSession], LatePolicy | None]:
    """One event, for callers without batches: the new state (None: nothing left), what was closed, too late or not."""
    fold = SessionFold(policy, {} if state is None else {user_key: state})
    late = fold.add(user_key, event, watermark_ms)
    return fold.states()[user_key], fold.closed, late


def close(
    state: UserSessions, user_key: str, watermark_ms: int, policy: SessionPolicy
) -> tuple[UserSessions | None, list[ClosedSession]]:
    """Close what the watermark has passed."""
    fold = SessionFold(policy, {user_key: state})
    fold.close(user_key, watermark_ms)
    return fold.states().get(user_key, state), fold.closed


class SessionFold:
    """One batch in progress. It changes private copies; dropping it undoes everything.

    Splitting a stream into batches anywhere gives the same sessions, whether or not ``close`` is called between: an
    event first closes what is due for its user.

    Args:
        stored: sessions of the batch's users, and of those to close, as far as they exist.
    """

    __slots__ = ("_cell_ms", "_gap_ms", "_open", "_policy", "_stored", "closed", "late")

    def __init__(self, policy: SessionPolicy, stored: Mapping[str, UserSessions]) -> None:
        self._policy = policy
        self._gap_ms = policy.gap_ms
        self._cell_ms = policy.cell_ms
        self._stored = stored
        self._open: dict[str, UserSessions] = {}
        #: To publish, in order.
        self.closed: list[ClosedSession] = []
        #: Events that were too late.
        self.late = 0

    def add(self, user_key: str, event: SessionEvent, watermark_ms: int) -> LatePolicy | None:
        """Fold one event; None, or what to do with it because it is too late for sessions.

        Args:
            watermark_ms: after this event was observed.
        """
        state = self._open.get(user_key) or self._take(user_key)
        if state.due_ms <= watermark_ms:
            self._settle(user_key, state, watermark_ms)
        parts, time_ms = state.parts, event.time_ms
        if parts:
            part = parts[-1]
            if part.start_ms <= time_ms < part.last_ms + self._gap_ms and part.cell == time_ms // self._cell_ms and part.base < 0:
                count(part, event)
                return None
        return self._place(user_key, state, event, watermark_ms)

    def close(self, user_key: str, watermark_ms: int) -> None:
        """Close what is due for one user; nothing else changes."""
        state = self._open.get(user_key) or self._stored.get(user_key)
        if state is not None and state.due_ms <= watermark_ms:
            self._settle(user_key, self._open.get(user_key) or self._take(user_key), watermark_ms)

    def states(self) -> dict[str, UserSessions | None]:
        """Values to write, by user key; None deletes. The fold must not be used any more."""
        for state in self._open.values():
            state.due_ms = self._due_ms(state)
        return {user_key: state if state.parts else None for user_key, state in self._open.items()}

    def _take(self, user_key: str) -> UserSessions:
        stored = self._stored.get(user_key)
        if stored is None:
            state = UserSessions(VERSION, NEVER, [])
        else:
            state = UserSessions(VERSION, stored.due_ms, [copy_part(part) for part in stored.parts])
        self._open[user_key] = state
        return state

    def _place(self, user_key: str, state: UserSessions, event: SessionEvent, watermark_ms: int) -> LatePolicy | None:
        """Add an event that does not simply extend the newest part."""
        time_ms, gap_ms, cell = event.time_ms, self._gap_ms, event.time_ms // self._cell_ms
        near = [p for p in state.parts if p.cell == cell and p.start_ms - gap_ms < time_ms < p.last_ms + gap_ms]
        is_past = time_ms + gap_ms + self._policy.allowed_lateness_ms <= watermark_ms
        if is_past and not any(part.start_ms <= time_ms <= part.last_ms for part in near):
            self.late += 1
            return self._policy.late
        if not near:
            state.parts.append(new_part(cell, event))
            state.parts.sort(key=_start_of)
        else:
            count(near[0], event)
            for other in near[1:]:
                self._join(user_key, state, near[0], other)
        state.due_ms = self._due_ms(state)
        return None

    def _join(self, user_key: str, state: UserSessions, part: SessionPart, other: SessionPart) -> None:
        """Two parts that an event bridges become one, unless a published cut lies between them."""
        if part.base != other.base and NOT_PUBLISHED not in (part.base, other.base):
            return
        if part.base == NOT_PUBLISHED:
            part.base, part.id_ms, part.revision = other.base, other.id_ms, other.revision
        elif other.id_ms not in (NOT_PUBLISHED, part.id_ms):
            self.closed.append(_merged_into(part.id_ms, other, user_key))
            for rest in [rest for rest in state.parts if rest.id_ms == other.id_ms]:
                rest.id_ms, rest.revision = part.id_ms, part.revision
        absorb(part, other)
        state.parts = [kept for kept in state.parts if kept is not other]

    def _settle(self, user_key: str, state: UserSessions, watermark_ms: int) -> None:
        """Publish the sessions that the watermark has passed, and forget those beyond the allowed lateness."""
        kept: list[SessionPart] = []
        for session in self._sessions(state.parts):
            end_ms = self._end_ms(session)
            if end_ms <= watermark_ms and any(part.is_changed for part in session):
                self.closed.append(self._publish(user_key, session))
            if end_ms + self._policy.allowed_lateness_ms > watermark_ms:
                kept += session
        state.parts = kept
        state.due_ms = self._due_ms(state)

    def _sessions(self, parts: list[SessionPart]) -> Iterator[list[SessionPart]]:
        session: list[SessionPart] = []
        for part in parts:
            if session and not self._continues(session, part):
                yield session
                session = []
            session.append(part)
        if session:
            yield session

    def _continues(self, session: list[SessionPart], part: SessionPart) -> bool:
        base = _base_of(session)
        return part.start_ms - session[-1].last_ms < self._gap_ms and part.cell < base + 2 and part.base in (NOT_PUBLISHED, base)

    def _end_ms(self, session: list[SessionPart]) -> int:
        """The watermark that closes it: the gap after its last event, or the end of its second cell."""
        return min(session[-1].last_ms + self._gap_ms, (_base_of(session) + 2) * self._cell_ms)

    def _due_ms(self, state: UserSessions) -> int:
        parts, due_ms = state.parts, NEVER
        if len(parts) == 1 and parts[0].base < 0:  # nearly always; the rest of this says the same at ten times the cost
            part = parts[0]
            return min(part.last_ms + self._gap_ms, (part.cell + 2) * self._cell_ms)
        for session in self._sessions(parts):
            is_changed = any(part.is_changed for part in session)
            due_ms = min(due_ms, self._end_ms(session) + (0 if is_changed else self._policy.allowed_lateness_ms))
        return due_ms

    def _publish(self, user_key: str, session: list[SessionPart]) -> ClosedSession:
        base = _base_of(session)
        known = [part for part in session if part.base != NOT_PUBLISHED]
        session_ms = min(part.id_ms for part in known) if known else session[0].start_ms
        revision = max((part.revision for part in known), default=0)
        for part in session:
            part.base, part.id_ms, part.revision, part.is_changed = base, session_ms, revision + 1, False
        whole = session[0]
        if len(session) > 1:
            whole = copy_part(whole)
            for part in session[1:]:
                absorb(whole, part)
        return _closed(user_key, session_ms, revision, whole, whole.last_ms + self._gap_ms > (base + 2) * self._cell_ms)


def _start_of(part: SessionPart) -> int:
    return part.start_ms


def _base_of(session: list[SessionPart]) -> int:
    first = session[0]
    return first.cell if first.base == NOT_PUBLISHED else first.base


def _closed(user_key: str, session_ms: int, revision: int, part: SessionPart, is_cut: bool) -> ClosedSession:
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


def _merged_into(session_ms: int, part: SessionPart, user_key: str) -> ClosedSession:
    return ClosedSession(user_key, part.id_ms, part.revision, part.start_ms, part.last_ms, 0, {}, merged_into_ms=session_ms)

"""Folding a batch of events into the sessions of their users, in arrival order (``sessions`` has the rules).

    (sessions of a user, event, watermark) -> (sessions, closed ones, too late or not)

``SessionFold`` holds the working values of one batch and nothing else: dropping it undoes everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from app.domain.session_events import SessionEvent
from app.domain.session_parts import NOT_PUBLISHED, SessionPart, absorb, copy_part, count, new_part
from app.domain.sessions import NEVER, VERSION, ClosedSession, SessionPolicy, UserSessions, closed_session, merged_session
from app.domain.watermarks import LatePolicy


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

    def close_all(self, stored: Iterable[str], watermark_ms: int) -> None:
        """Close what is due for the users of this batch and for ``stored`` ones, in the order of the alphabet."""
        due = {user_key for user_key, state in self._open.items() if state.due_ms <= watermark_ms}
        for user_key in sorted(due.union(stored)):
            self.close(user_key, watermark_ms)

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
            self.closed.append(merged_session(part.id_ms, other, user_key))
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
        return closed_session(user_key, session_ms, revision, whole, whole.last_ms + self._gap_ms > (base + 2) * self._cell_ms)


def _start_of(part: SessionPart) -> int:
    return part.start_ms


def _base_of(session: list[SessionPart]) -> int:
    first = session[0]
    return first.cell if first.base == NOT_PUBLISHED else first.base

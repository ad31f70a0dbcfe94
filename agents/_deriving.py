"""What a unique event is to its user's session and to windows: the part of ``process_interactions`` behind de-duplication."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Self

from app.domain.activities import Activity, Router, activities_of, encode_batch
from app.domain.events import Interaction
from app.domain.partials import Part, local
from app.domain.session_events import NameCode, lines_of, session_event
from app.domain.session_fold import SessionFold
from app.domain.sessions import SessionPolicy, encode_session
from app.domain.source_clock import SourceClock
from app.domain.totals import EventTotals
from app.domain.upstreams import Timed
from app.domain.watermarks import LatePolicy
from app.domain.windows import WindowSpec, lenient
from app.engine.api import Effects, Failure, Output, Record, State, put_all
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, SESSIONS
from tables.event_totals import ALL, event_totals
from tables.user_sessions import user_sessions
from tables.windows import KEYS, WINDOWS, WITH_ITEMS, fold_windows


@dataclass(frozen=True, slots=True)
class DerivedRules:
    """What of it is wanted, and by which rules."""

    sessions: SessionPolicy
    has_sessions: bool
    has_windows: bool
    local_windows: tuple[WindowSpec[Activity], ...]
    """counted here, and added up by ``aggregate_items``"""
    partitions: int

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Called once per worker."""
        late, lateness_ms = LatePolicy(settings.late_policy), settings.allowed_lateness_ms
        sessions = SessionPolicy(settings.session_gap_ms, settings.session_max_length_ms, lateness_ms, late)
        windows = [local(spec) for spec in lenient(WINDOWS, lateness_ms, late) if spec.is_local and settings.windows_enabled]
        return cls(sessions, settings.sessions_enabled, settings.windows_enabled, tuple(windows), settings.partitions)


class Derived:
    """One batch in progress.

    Args:
        users: keys of the batch's users.
        partition: of the source.
    """

    __slots__ = ("_counted", "_late", "_names", "_router", "_rules", "_sessions", "_stored", "_users")

    def __init__(self, rules: DerivedRules, state: State, users: Set[str], partition: int) -> None:
        self._rules = rules
        self._users = users
        #: Sessions of whoever is in the batch, then of those that are due; read by the fold.
        self._stored = state.view(user_sessions).get_many(users) if rules.has_sessions else {}
        self._sessions = SessionFold(rules.sessions, self._stored)
        self._router = Router(KEYS, rules.partitions, partition)
        #: Activities for local windows, by declaration, then by key.
        self._counted = [(spec, dict[str, list[Timed]]()) for spec in rules.local_windows]
        self._names: list[NameCode] = []
        #: Offsets of records that are to be parked because they came too late for something.
        self._late: set[int] = set()

    def add(self, record: Record, interaction: Interaction, watermark_ms: int) -> None:
        """One valid, unique event, in order; ``watermark_ms`` after it."""
        rules, user_key, value = self._rules, interaction.user_key, record.value or b""
        if not (rules.has_sessions or rules.has_windows):
            return
        event = session_event(interaction, value)
        self._names.append(event.name)
        if rules.has_windows:
            lines = lines_of(interaction, value) if event.name in WITH_ITEMS else ()
            for activity in activities_of(record.offset, user_key, event, lines, watermark_ms):
                self._router.add(activity)
                for spec, by_key in self._counted:
                    key = spec.key(activity)
                    if key is not None:
                        by_key.setdefault(key, []).append((activity, event.time_ms, watermark_ms))
        if rules.has_sessions and self._sessions.add(user_key, event, watermark_ms) is LatePolicy.DEAD_LETTER:
            self._late.add(record.offset)

    def finish(
        self, state: State, clock: SourceClock, records: Iterable[Record], effects: Effects, *, is_clock_moved: bool
    ) -> None:
        """Close what is over by now, publish and store."""
        self._close_sessions(state, clock.watermark_ms, effects)
        self._close_windows(state, clock.watermark_ms, effects)
        self._send_activities(state, clock, effects, is_clock_moved)
        for record in [record for record in records if record.offset in self._late] if self._late else ():
            failure = Failure("aggregate", "late", "later than allowed_lateness_ms for a session or window", "late")
            effects.set_aside(record, failure)
        put_all(state.view(user_sessions), self._sessions.states())
        if self._names:
            totals = state.view(event_totals)
            totals.put(ALL, (totals.get(ALL) or EventTotals()).plus(self._names))

    def _close_sessions(self, state: State, watermark_ms: int, effects: Effects) -> None:
        view = state.view(user_sessions)
        due = view.due(watermark_ms)
        self._stored |= view.get_many(user_key for user_key in due if user_key not in self._users)
        self._sessions.close_all(due, watermark_ms)
        for session in self._sessions.closed:
            effects.publish(Output(SESSIONS, session.user[2:].encode(), encode_session(session)))
        effects.late("sessions", self._sessions.late)

    def _close_windows(self, state: State, watermark_ms: int, effects: Effects) -> None:
        """Count for local windows; those that are over by now go to the partition of their key."""
        for spec, by_key in self._counted:
            fold, too_late = fold_windows(state, spec, by_key, watermark_ms)
            for closed in fold.closed:
                self._router.add_part(Part.of(closed))
            effects.late(spec.name, fold.late)
            if spec.late is LatePolicy.DEAD_LETTER:
                self._late.update(activity.offset for activity in too_late)

    def _send_activities(self, state: State, clock: SourceClock, effects: Effects, is_clock_moved: bool) -> None:
        """To the partitions that items and names belong to; now and then to all, for the watermark.

        A watermark says that all parts of windows up to it are sent: while some are left to close it is the former one.
        """
        is_time_to_tell = is_clock_moved and not state.is_due_left and clock.announce()
        watermark_ms = clock.told_ms if state.is_due_left else clock.watermark_ms
        if self._rules.has_windows:
            for partition, batch in self._router.batches(watermark_ms, everyone=is_time_to_tell):
                effects.publish(Output(ITEM_ACTIVITY, b"%d" % batch.upstream, encode_batch(batch), partition=partition))

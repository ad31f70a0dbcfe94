"""``interactions`` to ``interactions-enriched``: validate, de-duplicate, join reference data, keep a profile and sessions per user.

Closed sessions go to ``sessions``, what events say of items to ``item-activity``. The values of a user are written once
per batch. A record that is refused changes no state: its id is not remembered, so a repaired replay passes exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agents.registry import registry
from app.domain.activities import Activity, Router, activities_of, encode_batch
from app.domain.closed_ids import ClosedIdsCache
from app.domain.codec import Limits
from app.domain.dedupe import DedupePolicy
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from app.domain.events import Interaction
from app.domain.fold import BatchFold
from app.domain.partials import Part, local
from app.domain.session_events import NameCode, session_event
from app.domain.session_fold import SessionFold
from app.domain.sessions import SessionPolicy, UserSessions, encode_session
from app.domain.source_clock import SourceClock
from app.domain.times import broker_time_ms
from app.domain.totals import EventTotals
from app.domain.upstreams import Timed
from app.domain.validation import classify
from app.domain.watermarks import LatePolicy, WatermarkPolicy
from app.domain.windows import WindowSpec, lenient
from app.engine.api import Batch, Effects, Failure, Output, Record, State, put_all
from app.enrichment.join import NOTHING, Joined, Joiner, joiner_of
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS, ITEM_ACTIVITY, SESSIONS
from tables.event_totals import ALL, event_totals
from tables.seen_ids import seen_ids
from tables.source_clocks import CLOCK, source_clocks
from tables.user_profiles import user_profiles
from tables.user_sessions import user_sessions
from tables.windows import KEYS, PARTS, VIEWS, WINDOWS, fold_windows

#: 10 MiB when full. A user beyond it costs one read per closed chunk whenever it comes back.
CLOSED_IDS_IN_MEMORY = 400_000
#: One stored profile is looked at per so many records, to find those that have expired.
RECORDS_PER_SWEEP = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings, and the one cache that outlives a batch."""

    limits: Limits
    dedupe: DedupePolicy
    watermarks: WatermarkPolicy
    sessions: SessionPolicy
    user_expiry_ms: int
    has_sessions: bool
    has_windows: bool
    local_windows: tuple[WindowSpec[Activity], ...]
    """counted here, and added up by ``aggregate_items``"""
    reference: Joiner | None
    closed_ids: ClosedIdsCache

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Called once per worker."""
        limits = Limits(
            max_event_bytes=settings.max_event_bytes,
            max_id_chars=settings.max_id_chars,
            max_age_ms=settings.max_age_ms,
            max_ahead_ms=settings.max_ahead_ms,
            partitions=settings.partitions,
        )
        dedupe = DedupePolicy(settings.dedupe_min_ids, settings.dedupe_max_ids, settings.dedupe_min_age_ms)
        watermarks = WatermarkPolicy(settings.watermark_delay_ms, settings.watermark_lead_ms, settings.watermark_idle_ms)
        late = LatePolicy(settings.late_policy)
        sessions = SessionPolicy(settings.session_gap_ms, settings.session_max_length_ms, settings.allowed_lateness_ms, late)
        has = settings.sessions_enabled, settings.windows_enabled
        windows = tuple(local(spec) for spec in lenient(WINDOWS, settings.allowed_lateness_ms, late) if spec.is_local)
        return cls(
            limits, dedupe, watermarks, sessions, settings.user_expiry_ms, *has, windows, joiner_of(settings),
            ClosedIdsCache(CLOSED_IDS_IN_MEMORY),
        )  # fmt: skip


@registry.agent(
    source=INTERACTIONS,
    views=(user_profiles, seen_ids, user_sessions, event_totals, source_clocks, *[VIEWS[name] for name in PARTS]),
    setup=Rules.from_settings,
    ticks=True,
)
async def process_interactions(batch: Batch[Rules]) -> Effects:
    """Valid unique events with their sequence number; per-user profiles and sessions; activity per item."""
    effects = batch.effects()
    valid = _classify(batch, effects)
    joined = NOTHING
    if batch.context.reference is not None:
        valid, joined = await _join(batch.context.reference, valid, effects)
    work = _begin(batch, {interaction.user_key for _, interaction in valid})
    for record, interaction in valid:
        _fold(work, record, interaction, joined, effects)
    if batch.idle_ms is not None:
        work.is_clock_moved |= work.clock.idle(batch.idle_ms)
    _close_sessions(batch.state, work, effects)
    _close_windows(batch.state, work, effects)
    if work.late:
        _set_aside(batch.records, work, effects)
    _send_activities(batch.state, work, effects)
    _forget_users(batch, work)
    _write(batch.state, batch.context, work)
    return effects


@dataclass(slots=True)
class _Work:
    """What one batch folds into."""

    clock: SourceClock
    profiles: BatchFold
    sessions: SessionFold
    stored_sessions: dict[str, UserSessions]
    """of whoever is in the batch, then of those whose session is due; read by ``sessions``"""
    router: Router
    rules: Rules
    users: set[str]
    counted: list[tuple[WindowSpec[Activity], dict[str, list[Timed]]]]
    """activities for local windows, by declaration, then by key"""
    names: list[NameCode] = field(default_factory=list)
    late: set[int] = field(default_factory=set)
    """offsets of records that are to be parked because they came too late for something"""
    is_clock_moved: bool = False


def _classify(batch: Batch[Rules], effects: Effects) -> list[tuple[Record, Interaction]]:
    """The valid records with their interactions; the others become dead letters."""
    valid: list[tuple[Record, Interaction]] = []
    for record in batch.records:
        result = classify(record, batch.context.limits)
        if isinstance(result, Rejection):
            effects.dead_letter(record, Failure(result.stage, result.reason.value, result.message, result.disposition))
        else:
            valid.append((record, result))
    return valid


def _begin(batch: Batch[Rules], user_keys: set[str]) -> _Work:
    """Read what the batch's users have: three many-key reads at most, one of them only for ids that are not in memory."""
    rules, state = batch.context, batch.state
    clock = SourceClock(rules.watermarks, state.view(source_clocks).get(CLOCK))
    profiles = state.view(user_profiles).get_many(user_keys)
    recents = {user_key: profile.recent for user_key, profile in profiles.items()}
    closed = rules.closed_ids.take(recents, state.view(seen_ids).get_many)
    sessions = state.view(user_sessions).get_many(user_keys) if rules.has_sessions else {}
    router = Router(KEYS, rules.limits.partitions, batch.lane.partition)
    fold = BatchFold(rules.dedupe, profiles, closed)
    counted = [(spec, dict[str, list[Timed]]()) for spec in rules.local_windows] if rules.has_windows else []
    return _Work(clock, fold, SessionFold(rules.sessions, sessions), sessions, router, rules, user_keys, counted)


async def _join(
    reference: Joiner, valid: list[tuple[Record, Interaction]], effects: Effects
) -> tuple[list[tuple[Record, Interaction]], Joined]:
    """Reference data of the batch. Events that must not pass without it are parked, and change no state."""
    users = {interaction.event.user_id for _, interaction in valid if interaction.event.user_id}
    joined = await reference.look_up(users, {item for _, interaction in valid for item in interaction.items})
    passing = []
    for record, interaction in valid:
        reason = joined.unavailable(interaction.event.user_id, interaction.items)
        if reason is None:
            passing.append((record, interaction))
        else:
            effects.dead_letter(
                record, Failure("enrich", "reference_unavailable", f"reference data: {reason}", "transient_timeout")
            )
    return passing, joined


def _fold(work: _Work, record: Record, interaction: Interaction, joined: Joined, effects: Effects) -> None:
    """One valid event: a duplicate, or the next of its user."""
    value, headers, rules = record.value or b"", record.headers, work.rules
    sequence = work.profiles.add(interaction, record.timestamp, work.clock.watermark_ms - rules.user_expiry_ms)
    if sequence is None:
        effects.duplicate(record)
        return
    received_ms = broker_time_ms(record.timestamp, headers) if headers else record.timestamp
    watermark_ms = work.clock.watermark.observe(interaction.time_ms, received_ms)
    work.is_clock_moved = True
    if rules.has_sessions or rules.has_windows:
        _derive(work, record, interaction, watermark_ms)
    event = interaction.event
    reference = b"" if joined is NOTHING else joined.member(event.user_id, interaction.items)
    output = enrich(value, sequence, record.timestamp, event.has_veltrix, reference)
    effects.emit(record, Output(ENRICHED, record.key, output))


def _derive(work: _Work, record: Record, interaction: Interaction, watermark_ms: int) -> None:
    """What a unique event is to its user's session and to windows."""
    user_key, event = interaction.user_key, session_event(interaction, record.value or b"")
    work.names.append(event.name)
    if work.rules.has_windows:
        for activity in activities_of(record.offset, user_key, event, watermark_ms):
            work.router.add(activity)
            for spec, by_key in work.counted:
                key = spec.key(activity)
                if key is not None:
                    by_key.setdefault(key, []).append((activity, event.time_ms, watermark_ms))
    if work.rules.has_sessions and work.sessions.add(user_key, event, watermark_ms) is LatePolicy.DEAD_LETTER:
        work.late.add(record.offset)


def _close_sessions(state: State, work: _Work, effects: Effects) -> None:
    """Publish the sessions that are over by now."""
    view, watermark_ms = state.view(user_sessions), work.clock.watermark_ms
    due = view.due(watermark_ms)
    work.stored_sessions |= view.get_many(user_key for user_key in due if user_key not in work.users)
    work.sessions.close_all(due, watermark_ms)
    for session in work.sessions.closed:
        effects.publish(Output(SESSIONS, session.user[2:].encode(), encode_session(session)))
    effects.late("sessions", work.sessions.late)


def _close_windows(state: State, work: _Work, effects: Effects) -> None:
    """Count for local windows; those that are over by now go to the partition of their key."""
    for spec, by_key in work.counted:
        fold, too_late = fold_windows(state, spec, by_key, work.clock.watermark_ms)
        for closed in fold.closed:
            work.router.add_part(Part.of(closed))
        effects.late(spec.name, fold.late)
        if spec.late is LatePolicy.DEAD_LETTER:
            work.late.update(activity.offset for activity in too_late)


def _set_aside(records: Iterable[Record], work: _Work, effects: Effects) -> None:
    """Park a copy of what came too late for a session or a window, if that is the policy; the event itself has passed."""
    for record in [record for record in records if record.offset in work.late]:
        effects.set_aside(record, Failure("aggregate", "late", "later than allowed_lateness_ms for a session or window", "late"))


def _send_activities(state: State, work: _Work, effects: Effects) -> None:
    """To the partitions that items and names belong to; now and then to all, for the watermark.

    A watermark says that all parts of windows up to it are sent: while some are left to close it is the former one.
    """
    clock = work.clock
    is_time_to_tell = work.is_clock_moved and not state.is_due_left and clock.announce()
    watermark_ms = clock.told_ms if state.is_due_left else clock.watermark_ms
    if work.rules.has_windows:
        for partition, activities in work.router.batches(watermark_ms, everyone=is_time_to_tell):
            effects.publish(Output(ITEM_ACTIVITY, b"%d" % activities.upstream, encode_batch(activities), partition=partition))


def _forget_users(batch: Batch[Rules], work: _Work) -> None:
    """Delete some profiles that have expired. When does not matter: an expired one is as good as none (``BatchFold``)."""
    count = len(batch.records) // RECORDS_PER_SWEEP or (bool(batch.records) and batch.records[0].offset % RECORDS_PER_SWEEP == 0)
    if count:
        before_ms = work.clock.watermark_ms - work.rules.user_expiry_ms
        for user_key, profile in batch.state.view(user_profiles).sweep(count).items():
            if profile.last_seen_ms < before_ms:
                work.profiles.forget(user_key, profile)


def _write(state: State, rules: Rules, work: _Work) -> None:
    fold = work.profiles
    put_all(state.view(user_profiles), fold.written())
    put_all(state.view(seen_ids), fold.chunks)
    put_all(state.view(user_sessions), work.sessions.states())
    fold.give_back(rules.closed_ids)
    if work.names:
        totals = state.view(event_totals)
        totals.put(ALL, (totals.get(ALL) or EventTotals()).plus(work.names))
    if work.is_clock_moved:
        state.view(source_clocks).put(CLOCK, work.clock.snapshot())

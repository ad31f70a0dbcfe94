"""``interactions`` to ``interactions-enriched``: validate, de-duplicate, join reference data, keep a profile per user.

What follows from a unique event, sessions and windows, is in ``_deriving``. The values of a user are written once per
batch. A record that is refused changes no state: its id is not remembered, so a repaired replay passes exactly once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from agents import _diary
from agents._deriving import Derived, DerivedRules
from agents.registry import registry
from app.domain.closed_ids import ClosedIdsCache
from app.domain.codec import Limits
from app.domain.dedupe import DedupePolicy
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from app.domain.events import Interaction
from app.domain.fold import BatchFold
from app.domain.source_clock import SourceClock
from app.domain.times import broker_time_ms
from app.domain.validation import classify
from app.domain.watermarks import WatermarkPolicy
from app.engine.api import Batch, Effects, Failure, Output, Record, State, put_all
from app.enrichment.join import NOTHING, Joined, Joiner, joiner_of
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS
from tables.event_totals import event_totals
from tables.seen_ids import seen_ids
from tables.source_clocks import CLOCK, source_clocks
from tables.user_profiles import user_profiles
from tables.user_sessions import user_sessions
from tables.windows import PARTS, VIEWS

#: 10 MiB when full. A user beyond it costs one read per closed chunk whenever it comes back.
CLOSED_IDS_IN_MEMORY = 400_000
#: One stored profile is looked at per so many records, to find those that have expired.
RECORDS_PER_SWEEP = 32


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings, and the one cache that outlives a batch."""

    limits: Limits
    dedupe: DedupePolicy
    watermarks: WatermarkPolicy
    user_expiry_ms: int
    derived: DerivedRules
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
            detailed=settings.sessions_enabled or settings.windows_enabled,
        )
        return cls(
            limits,
            DedupePolicy(settings.dedupe_min_ids, settings.dedupe_max_ids, settings.dedupe_min_age_ms),
            WatermarkPolicy(settings.watermark_delay_ms, settings.watermark_lead_ms, settings.watermark_idle_ms),
            settings.user_expiry_ms,
            DerivedRules.from_settings(settings),
            joiner_of(settings),
            ClosedIdsCache(CLOSED_IDS_IN_MEMORY),
        )


@dataclass(slots=True)
class _Work:
    """What one batch folds into."""

    rules: Rules
    clock: SourceClock
    profiles: BatchFold
    derived: Derived
    joined: Joined
    is_clock_moved: bool = False


@registry.agent(
    source=INTERACTIONS,
    views=(user_profiles, seen_ids, user_sessions, event_totals, source_clocks, *[VIEWS[name] for name in PARTS]),
    setup=Rules.from_settings,
    ticks=True,
)
async def process_interactions(batch: Batch[Rules]) -> Effects:
    """Valid unique events with their sequence number; per-user profiles and sessions; activity per item."""
    effects, state, joined, at = batch.effects(), batch.state, NOTHING, time.perf_counter()
    valid = _classify(batch, effects)
    at = effects.step("decode", at)
    if batch.context.reference is not None:
        valid, joined = await _join(batch.context.reference, valid, effects)
        at = effects.step("enrich", at)
    work = _begin(batch, {interaction.user_key for _, interaction in valid}, joined)
    _fold(work, valid, effects)
    if batch.idle_ms is not None:
        work.is_clock_moved |= work.clock.idle(batch.idle_ms)
    work.derived.finish(state, work.clock, batch.records, effects, is_clock_moved=work.is_clock_moved)
    _forget_users(batch, work)
    _write(state, work)
    effects.step("state", at)
    _diary.write(batch.records, valid, effects)
    return effects


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


async def _join(
    reference: Joiner, valid: list[tuple[Record, Interaction]], effects: Effects
) -> tuple[list[tuple[Record, Interaction]], Joined]:
    """Reference data of the batch. Events that must not pass without it are tried again later, and change no state."""
    users = {interaction.event.user_id for _, interaction in valid if interaction.event.user_id}
    joined = await reference.look_up(users, {item for _, interaction in valid for item in interaction.items})
    passing = []
    for record, interaction in valid:
        reason = joined.unavailable(interaction.event.user_id, interaction.items)
        if reason is None:
            passing.append((record, interaction))
        else:
            effects.retry(record, Failure("enrich", "reference_unavailable", f"reference data: {reason}", "transient_timeout"))
    return passing, joined


def _begin(batch: Batch[Rules], user_keys: set[str], joined: Joined) -> _Work:
    """Read what the batch's users have: three many-key reads at most, one of them only for ids that are not in memory."""
    rules, state = batch.context, batch.state
    clock = SourceClock(rules.watermarks, state.view(source_clocks).get(CLOCK))
    profiles = state.view(user_profiles).get_many(user_keys)
    recents = {user_key: profile.recent for user_key, profile in profiles.items()}
    closed = rules.closed_ids.take(recents, state.view(seen_ids).get_many)
    fold = BatchFold(rules.dedupe, profiles, closed)
    return _Work(rules, clock, fold, Derived(rules.derived, state, user_keys, batch.lane.partition), joined)


def _fold(work: _Work, valid: list[tuple[Record, Interaction]], effects: Effects) -> None:
    """Each valid event, in order, is a duplicate or the next of its user."""
    clock, joined, expiry_ms = work.clock, work.joined, work.rules.user_expiry_ms
    number, derive = work.profiles.add, work.derived.add
    observe, emit = clock.watermark.observe, effects.emit
    for record, interaction in valid:
        timestamp, headers, event = record.timestamp, record.headers, interaction.event
        sequence = number(interaction, timestamp, clock.watermark_ms - expiry_ms)
        if sequence is None:
            effects.duplicate(record)
            continue
        watermark_ms = observe(interaction.time_ms, broker_time_ms(timestamp, headers) if headers else timestamp)
        work.is_clock_moved = True
        derive(record, interaction, watermark_ms)
        reference = b"" if joined is NOTHING else joined.member(event.user_id, interaction.items)
        output = enrich(record.value or b"", sequence, timestamp, event.has_veltrix, reference)
        emit(record, Output(ENRICHED, record.key, output))


def _forget_users(batch: Batch[Rules], work: _Work) -> None:
    """Delete some profiles that have expired. When does not matter: an expired one is as good as none (``BatchFold``)."""
    count = len(batch.records) // RECORDS_PER_SWEEP or (bool(batch.records) and batch.records[0].offset % RECORDS_PER_SWEEP == 0)
    if count:
        before_ms = work.clock.watermark_ms - work.rules.user_expiry_ms
        for user_key, profile in batch.state.view(user_profiles).sweep(count).items():
            if profile.last_seen_ms < before_ms:
                work.profiles.forget(user_key, profile)


def _write(state: State, work: _Work) -> None:
    fold = work.profiles
    put_all(state.view(user_profiles), fold.written())
    put_all(state.view(seen_ids), fold.chunks)
    fold.give_back(work.rules.closed_ids)
    if work.is_clock_moved:
        state.view(source_clocks).put(CLOCK, work.clock.snapshot())

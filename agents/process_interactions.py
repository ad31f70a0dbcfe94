"""``interactions`` to ``interactions-enriched``: validate, de-duplicate, keep a profile per user.

The profile of a user is written once per batch, its closed chunks of remembered ids once ever. A record that is
refused changes no state: its id is not remembered, so a repaired replay passes exactly once.
"""

from __future__ import annotations

from dataclasses import dataclass

from agents.registry import registry
from app.domain.closed_ids import ClosedIdsCache
from app.domain.codec import Limits
from app.domain.dedupe import DedupePolicy
from app.domain.enriched import enrich
from app.domain.errors import Rejection
from app.domain.events import Interaction
from app.domain.fold import BatchFold
from app.domain.validation import classify
from app.engine.api import Batch, Effects, Failure, Output, Record, State
from app.settings import Settings
from app.topics import ENRICHED, INTERACTIONS
from tables.seen_ids import seen_ids
from tables.user_profiles import user_profiles

#: 10 MiB when full. A user beyond it costs one read per closed chunk whenever it comes back.
CLOSED_IDS_IN_MEMORY = 400_000


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings, and the one cache that outlives a batch."""

    limits: Limits
    dedupe: DedupePolicy
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
        return cls(limits, dedupe, ClosedIdsCache(CLOSED_IDS_IN_MEMORY))


@registry.agent(source=INTERACTIONS, views=(user_profiles, seen_ids), setup=Rules.from_settings)
async def process_interactions(batch: Batch[Rules]) -> Effects:
    """Valid unique events with their sequence number; per-user profiles."""
    rules, effects = batch.context, batch.effects()
    valid = _classify(batch, effects)
    if not valid:
        return effects
    fold = _open_fold(batch.state, rules, {interaction.user_key for _, interaction in valid})
    for record, interaction in valid:
        sequence = fold.add(interaction, record.timestamp)
        if sequence is None:
            effects.duplicate(record)
            continue
        value = enrich(record.value or b"", sequence, record.timestamp, interaction.event.has_veltrix)
        effects.emit(record, Output(ENRICHED, record.key, value))
    _write(batch.state, rules, fold)
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


def _open_fold(state: State, rules: Rules, user_keys: set[str]) -> BatchFold:
    """Read what the batch's users have: two many-key reads at most, the second only for ids that are not in memory."""
    profiles = state.view(user_profiles).get_many(user_keys)
    recents = {user_key: profile.recent for user_key, profile in profiles.items()}
    closed = rules.closed_ids.take(recents, state.view(seen_ids).get_many)
    return BatchFold(rules.dedupe, profiles, closed)


def _write(state: State, rules: Rules, fold: BatchFold) -> None:
    users, ids = state.view(user_profiles), state.view(seen_ids)
    for user_key, profile in fold.profiles.items():
        users.put(user_key, profile)
    for key, chunk in fold.chunks.items():
        if chunk is None:
            ids.delete(key)
        else:
            ids.put(key, chunk)
    fold.give_back(rules.closed_ids)

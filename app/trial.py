"""Would a dead letter pass now, and what would it change? The deployed rules, without any effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from agents._deriving import DerivedRules
from agents.process_interactions import Rules
from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.replay import Ours, replay_of
from app.domain.activities import Activity, activities_of
from app.domain.errors import Rejection
from app.domain.events import Interaction
from app.domain.hindsight import Touched, session_of, windows_of
from app.domain.session_events import lines_of, session_event
from app.domain.validation import classify
from app.domain.watermarks import LatePolicy
from app.domain.windows import WindowSpec, lenient
from app.enrichment.join import Joiner
from app.settings import Settings
from app.sidecar.dead_letter_trials import Trial, Validate
from tables.windows import WINDOWS


def validator(
    settings: Settings, ours: Ours, reference: Joiner | None, now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
) -> Validate:
    """Decoding, validation and enrichment; then sessions and windows, as of a source that is read to its end.

    Args:
        now_ms: wall clock, epoch ms. The watermark of such a source is as far behind it as the settings say.
    """
    rules = Rules.from_settings(settings)
    windows = lenient(WINDOWS, settings.allowed_lateness_ms, LatePolicy(settings.late_policy))

    async def validate(letter: DeadLetterRecord, value: bytes | None) -> Trial:
        record = replay_of(letter, ours, "validate", value=value, force=True)
        found = classify(record, rules.limits)
        if isinstance(found, Rejection):
            return Trial(found.stage, found.reason.value, found.message)
        missing = None if reference is None else await reference.missing(found.event.user_id, found.items)
        if missing is not None:
            return Trial("enrich", "reference_unavailable", f"reference data: {missing}")
        watermark_ms = now_ms() - settings.watermark_delay_ms
        return Trial(touched=_touched(rules.derived, windows, found, record.value or b"", watermark_ms))

    return validate


def _touched(
    rules: DerivedRules, windows: Sequence[WindowSpec[Activity]], event: Interaction, value: bytes, watermark_ms: int
) -> list[Touched]:
    """The results that the event belongs to, of those that the settings want."""
    found: list[Touched] = []
    if rules.has_sessions:
        found.append(session_of(event.time_ms, rules.sessions, watermark_ms))
    if rules.has_windows:
        activities = activities_of(0, event.user_key, session_event(event, value), lines_of(event, value), watermark_ms)
        found += windows_of(activities, windows, watermark_ms)
    return found

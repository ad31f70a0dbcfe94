"""``item-activity`` to ``item-windows``: every windowed result that ``tables/windows.py`` declares, and what is trending.

Windows close when the least watermark of all upstream partitions has passed them. What was applied before, and comes
again after a crash upstream, is a duplicate: each is known by its offset there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agents.registry import registry
from app.domain.activities import Activity, UnreadableActivities, decode_batch
from app.domain.trending import Trending, top_of
from app.domain.upstreams import UnknownUpstream, Upstreams
from app.domain.watermarks import LatePolicy
from app.domain.window_fold import WindowFold
from app.domain.windows import ClosedWindow, WindowSpec, encode_window
from app.engine.api import Batch, Effects, Failure, Output, Record, State, put_all
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, ITEM_WINDOWS
from tables.trending import TRENDING, trending
from tables.upstreams import ALL, upstreams
from tables.windows import VIEWS, WINDOWS

Taken = list[tuple[Record, Activity, int]]
"""Record, activity, watermark to fold it with"""


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings."""

    partitions: int
    windows: tuple[WindowSpec[Activity], ...]

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Called once per worker."""
        late, lateness_ms = LatePolicy(settings.late_policy), settings.allowed_lateness_ms
        specs = (replace(s, late=late, allowed_lateness_ms=max(s.allowed_lateness_ms, lateness_ms)) for s in WINDOWS)
        return cls(settings.partitions, tuple(specs))


@registry.agent(source=ITEM_ACTIVITY, views=(upstreams, trending, *VIEWS.values()), setup=Rules.from_settings, ticks=True)
async def aggregate_items(batch: Batch[Rules]) -> Effects:
    """Windows per item and per event name, closed by event time."""
    effects, state = batch.effects(), batch.state
    clock = Upstreams(batch.context.partitions, state.view(upstreams).get(ALL))
    taken = _take(batch.records, clock, effects)
    for spec in batch.context.windows:
        closed = _fold(state, spec, taken.get(spec.key.__name__, ()), clock.watermark_ms, effects)
        for window in closed:
            effects.publish(Output(ITEM_WINDOWS, window.key.encode(), encode_window(window)))
        _note_trends(state, spec, closed)
    if batch.records:
        state.view(upstreams).put(ALL, clock.snapshot())
    return effects


def _take(records: Iterable[Record], clock: Upstreams, effects: Effects) -> dict[str, Taken]:
    """What is new, by the name of its key function; every record gets its outcome."""
    taken: dict[str, Taken] = {}
    for record in records:
        try:
            activities = decode_batch(record.value)
            before = clock.applied(activities.upstream)
            for key, activity, watermark_ms in clock.take(activities):
                taken.setdefault(key, []).append((record, activity, watermark_ms))
        except (UnreadableActivities, UnknownUpstream) as exc:
            effects.dead_letter(record, Failure("decode", exc.reason, str(exc)))
            continue
        is_repeated = activities.activities and clock.applied(activities.upstream) == before
        effects.duplicate(record) if is_repeated else effects.emit(record)
    return taken


def _fold(
    state: State, spec: WindowSpec[Activity], taken: Taken | tuple[()], watermark_ms: int, effects: Effects
) -> list[ClosedWindow]:
    """Fold activities into the windows of one declaration, and close what is due; the closed ones."""
    view = state.view(VIEWS[spec.name])
    due = view.due(watermark_ms)
    if not taken and not due:
        return []
    keys = {key for _, activity, _ in taken if (key := spec.key(activity)) is not None}.union(due)
    fold = WindowFold(spec, view.get_many(keys))
    late = {r.offset: r for r, activity, at_ms in taken if fold.add(activity, activity.time_ms, at_ms) is LatePolicy.DEAD_LETTER}
    for record in late.values():
        effects.set_aside(record, Failure("aggregate", "late", f"has events that are too late for {spec.name}", "late"))
    for key in sorted(keys):
        fold.close(key, watermark_ms)
    put_all(view, fold.states())
    effects.late(spec.name, fold.late)
    return fold.closed


def _note_trends(state: State, spec: WindowSpec[Activity], closed: list[ClosedWindow]) -> None:
    """Keep the leaders of the newest windows of a declaration that has trends."""
    score = TRENDING.get(spec.name)
    if score is None or not closed:
        return
    view = state.view(trending)
    view.put(
        spec.name, top_of(view.get(spec.name) or Trending(), ((w.start_ms, w.end_ms, w.key, score(w.results)) for w in closed))
    )

"""``item-activity`` to ``item-windows``: every windowed result that ``tables/windows.py`` declares, and what is trending.

Windows close when the least watermark of all upstream partitions has passed them. What was applied before, and comes
again after a crash upstream, is a duplicate: each is known by its offset there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from agents.registry import registry
from app.domain.activities import Activity, UnreadableActivities, decode_batch
from app.domain.trending import Trending, top_of
from app.domain.upstreams import Taken, Timed, UnknownUpstream, Upstreams
from app.domain.watermarks import LatePolicy
from app.domain.window_fold import WindowFold
from app.domain.windows import ClosedWindow, WindowSpec, encode_window
from app.engine.api import Batch, Effects, Failure, Output, Record, State, put_all
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, ITEM_WINDOWS
from tables.trending import TRENDING, trending
from tables.upstreams import ALL, upstreams
from tables.windows import KEYS, VIEWS, WINDOWS


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings."""

    partitions: int
    windows: tuple[WindowSpec[Activity], ...]
    late: LatePolicy

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Called once per worker."""
        late, lateness_ms = LatePolicy(settings.late_policy), settings.allowed_lateness_ms
        specs = (replace(s, late=late, allowed_lateness_ms=max(s.allowed_lateness_ms, lateness_ms)) for s in WINDOWS)
        return cls(settings.partitions, tuple(specs), late)


@registry.agent(source=ITEM_ACTIVITY, views=(upstreams, trending, *VIEWS.values()), setup=Rules.from_settings, ticks=True)
async def aggregate_items(batch: Batch[Rules]) -> Effects:
    """Windows per item and per event name, closed by event time."""
    effects, state, rules = batch.effects(), batch.state, batch.context
    clock = Upstreams(rules.partitions, state.view(upstreams).get(ALL))
    taken, late = _take(batch.records, clock, effects), set[Activity]()
    for spec in rules.windows:
        closed = _fold(state, spec, taken[spec.key.__name__], clock.watermark_ms, effects, late)
        for window in closed:
            effects.publish(Output(ITEM_WINDOWS, window.key.encode(), encode_window(window)))
        _note_trends(state, closed)
    if late and rules.late is LatePolicy.DEAD_LETTER:
        _set_aside(batch.records, late, effects)
    if batch.records:
        state.view(upstreams).put(ALL, clock.snapshot())
    return effects


def _take(records: Iterable[Record], clock: Upstreams, effects: Effects) -> Taken:
    """What is new, by key function and key; every record gets its outcome."""
    taken: Taken = {name: {} for name in KEYS}
    for record in records:
        try:
            is_new = clock.take(decode_batch(record.value), KEYS, taken)
        except (UnreadableActivities, UnknownUpstream) as exc:
            effects.dead_letter(record, Failure("decode", exc.reason, str(exc)))
            continue
        effects.emit(record) if is_new else effects.duplicate(record)
    return taken


def _fold(
    state: State,
    spec: WindowSpec[Activity],
    taken: Mapping[str, Sequence[Timed]],
    watermark_ms: int,
    effects: Effects,
    late: set[Activity],
) -> list[ClosedWindow]:
    """Fold activities into the windows of one declaration, and close what is due; the closed ones."""
    view = state.view(VIEWS[spec.name])
    due = view.due(watermark_ms)
    if not taken and not due:
        return []
    keys = taken.keys() | due
    fold = WindowFold(spec, view.get_many(keys))
    for key, activities in taken.items():
        wanted = activities if spec.where is None else [timed for timed in activities if spec.where(timed[0])]
        late.update(fold.add_all(key, wanted))
    fold.close_all(due, watermark_ms)
    put_all(view, fold.states())
    effects.late(spec.name, fold.late)
    return fold.closed


def _set_aside(records: Iterable[Record], late: Set[Activity], effects: Effects) -> None:
    """Park a copy of each record that has late activities; rare, so it is read again."""
    dead = {record.offset for record, _ in effects.dead_letters}
    for record in [record for record in records if record.offset not in dead]:
        sent = decode_batch(record.value).activities.values()
        if any(activity in late for activities in sent for activity in activities):
            effects.set_aside(record, Failure("aggregate", "late", "has events that are too late for a window", "late"))


def _note_trends(state: State, closed: Iterable[ClosedWindow]) -> None:
    """Keep the leaders of the newest windows of each output that has trends."""
    view = state.view(trending)
    for name, score in TRENDING.items():
        scored = [(w.start_ms, w.end_ms, w.key, score(w.results)) for w in closed if w.name == name]
        if scored:
            view.put(name, top_of(view.get(name) or Trending(), scored))

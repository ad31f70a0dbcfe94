"""``item-activity`` to ``item-windows``: every windowed result that ``tables/windows.py`` declares, and what is trending.

Windows close when the least watermark of all upstream partitions has passed them. What was applied before, and comes
again after a crash upstream, is a duplicate: each is known by its offset there.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from agents.registry import registry
from app.domain.activities import Activity, UnreadableActivities, decode_batch
from app.domain.partials import Part, PartialFold
from app.domain.trending import Trending, top_of
from app.domain.upstreams import Taken, UnknownUpstream, Upstreams
from app.domain.watermarks import LatePolicy
from app.domain.windows import ClosedWindow, WindowSpec, encode_window, lenient
from app.engine.api import Batch, Effects, Failure, Output, Record, State, put_all
from app.settings import Settings
from app.topics import ITEM_ACTIVITY, ITEM_WINDOWS
from tables.trending import TRENDING, trending
from tables.upstreams import ALL, upstreams
from tables.windows import KEYS, PARTS, VIEWS, WINDOWS, fold_windows


@dataclass(frozen=True, slots=True)
class Rules:
    """What this agent needs of the settings."""

    partitions: int
    windows: tuple[WindowSpec[Activity], ...]
    late: LatePolicy

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Called once per worker."""
        late = LatePolicy(settings.late_policy)
        return cls(settings.partitions, tuple(lenient(WINDOWS, settings.allowed_lateness_ms, late)), late)


@registry.agent(
    source=ITEM_ACTIVITY,
    views=(upstreams, trending, *[PARTS.get(spec.name) or VIEWS[spec.name] for spec in WINDOWS]),
    setup=Rules.from_settings,
    ticks=True,
    linger_ms=100,  # a result leaves within a second of its watermark
)
async def aggregate_items(batch: Batch[Rules]) -> Effects:
    """Windows per item and per event name, closed by event time."""
    effects, state, rules = batch.effects(), batch.state, batch.context
    clock = Upstreams(rules.partitions, state.view(upstreams).get(ALL))
    parts, late = list[tuple[int, Part, int]](), set[Activity]()
    taken = _take(batch.records, clock, parts, effects)
    for spec in rules.windows:
        if spec.is_local:
            closed = _add_up(state, spec, parts, clock.watermark_ms)
        else:
            fold, too_late = fold_windows(state, spec, taken[spec.key.__name__], clock.watermark_ms)
            closed = fold.closed
            late.update(too_late)
            effects.late(spec.name, fold.late)
        for window in closed:
            effects.publish(Output(ITEM_WINDOWS, window.key.encode(), encode_window(window)))
        _note_trends(state, closed)
    if late and rules.late is LatePolicy.DEAD_LETTER:
        _set_aside(batch.records, late, effects)
    if batch.records:
        state.view(upstreams).put(ALL, clock.snapshot())
    return effects


def _take(records: Iterable[Record], clock: Upstreams, parts: list[tuple[int, Part, int]], effects: Effects) -> Taken:
    """What is new, by key function and key; every record gets its outcome. ``parts`` gets all parts, with the watermark before."""
    taken: Taken = {name: {} for name in KEYS}
    for record in records:
        try:
            batch, before_ms = decode_batch(record.value), clock.watermark_ms
            is_new = clock.take(batch, KEYS, taken)
        except (UnreadableActivities, UnknownUpstream) as exc:
            effects.dead_letter(record, Failure("decode", exc.reason, str(exc)))
            continue
        parts += [(batch.upstream, part, before_ms) for part in batch.parts]
        effects.emit(record) if is_new else effects.duplicate(record)
    return taken


def _add_up(
    state: State, spec: WindowSpec[Activity], parts: Iterable[tuple[int, Part, int]], watermark_ms: int
) -> list[ClosedWindow]:
    """Windows that source partitions have counted and closed, each for itself; those that all of them have passed."""
    view = state.view(PARTS[spec.name])
    due = view.due(watermark_ms)
    fold = PartialFold(spec, view.get_many({part.key for _, part, _ in parts}.union(due)))
    for upstream, part, before_ms in parts:
        fold.add(upstream, part, before_ms)
    fold.close_all(due, watermark_ms)
    put_all(view, fold.states())
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

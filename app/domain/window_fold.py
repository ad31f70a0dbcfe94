"""Folding a batch of events into the windows of one declaration, in arrival order (``windows`` has the rules).

    (windows of a key, event, its time, watermark) -> (windows, closed ones, too late or not)

``WindowFold`` holds the working values of one batch and nothing else: dropping it undoes everything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from app.domain.aggregates import Whole
from app.domain.watermarks import LatePolicy
from app.domain.windows import NEVER, VERSION, ClosedWindow, KeyWindows, WindowSpec, results_of

E = TypeVar("E")
_Panes = dict[int, list[Any]]


def step(
    state: KeyWindows | None, event: E, time_ms: int, watermark_ms: int, spec: WindowSpec[E]
) -> tuple[KeyWindows | None, list[ClosedWindow], LatePolicy | None]:
    """One event, for callers without batches; ``state`` is that of the event's key, None is that of no key."""
    key = spec.key(event)
    fold = WindowFold(spec, {} if state is None or key is None else {key: state})
    late = fold.add(event, time_ms, watermark_ms)
    return (state if key is None else fold.states()[key]), fold.closed, late


def close(state: KeyWindows, key: str, watermark_ms: int, spec: WindowSpec[E]) -> tuple[KeyWindows | None, list[ClosedWindow]]:
    """Close what the watermark has passed."""
    fold = WindowFold(spec, {key: state})
    fold.close(key, watermark_ms)
    return fold.states().get(key, state), fold.closed


class WindowFold(Generic[E]):
    """One batch of one spec in progress. It changes private copies; dropping it undoes everything.

    Splitting a stream into batches anywhere gives the same windows, whether or not ``close`` is called between.

    Args:
        stored: states of the batch's keys, and of those to close, as far as they exist.
    """

    __slots__ = ("_adds", "_copies", "_kept_ms", "_key", "_lateness_ms", "_open", "_pane_ms", "_spec", "_stored", "closed", "late")

    def __init__(self, spec: WindowSpec[E], stored: Mapping[str, KeyWindows]) -> None:
        self._spec = spec
        self._key = spec.key
        self._pane_ms = spec.pane_ms
        self._lateness_ms = spec.allowed_lateness_ms
        self._kept_ms = spec.size_ms + spec.allowed_lateness_ms
        self._adds = tuple(enumerate(aggregate.add for aggregate in spec.aggregates.values()))
        numbered = enumerate(spec.aggregates.values())
        self._copies = tuple((at, aggregate.copy) for at, aggregate in numbered if not isinstance(aggregate, Whole))
        self._stored = stored
        #: With the panes that may be changed: the others are still those of the stored value.
        self._open: dict[str, tuple[KeyWindows, _Panes]] = {}
        #: To publish, in order.
        self.closed: list[ClosedWindow] = []
        #: Events that were too late for all their windows.
        self.late = 0

    def add(self, event: E, time_ms: int, watermark_ms: int) -> LatePolicy | None:
        """Fold one event; None, or what to do with it because it is too late.

        Args:
            watermark_ms: after this event was observed.
        """
        key = self._key(event)
        if key is None:
            return None
        return self._spec.late if self.add_all(key, ((event, time_ms, watermark_ms),)) else None

    def add_all(self, key: str, events: Iterable[tuple[E, int, int]]) -> list[E]:
        """Fold events of one key: event, its time, the watermark after it. The too late ones come back."""
        late: list[E] = []
        adds, pane_ms = self._adds, self._pane_ms
        taken: tuple[KeyWindows, _Panes] | None = self._open.get(key)
        for event, time_ms, watermark_ms in events:
            state, mine = taken = taken or self._take(key, watermark_ms)
            if state.due_ms <= watermark_ms:
                self._settle(key, state, watermark_ms)
            accumulators = mine.get(time_ms - time_ms % pane_ms)
            if accumulators is None or time_ms < watermark_ms:
                accumulators = self._pane(state, mine, time_ms, watermark_ms)
                if accumulators is None:
                    late.append(event)
                    continue
            for at, add in adds:
                accumulators[at] = add(accumulators[at], event)
        self.late += len(late)
        return late

    def close(self, key: str, watermark_ms: int) -> None:
        """Close what is due for one key; nothing else changes."""
        if key in self._open or key in self._stored:
            state, _ = self._open.get(key) or self._take(key, watermark_ms)
            if state.due_ms <= watermark_ms:
                self._settle(key, state, watermark_ms)

    def close_all(self, stored: Iterable[str], watermark_ms: int) -> None:
        """Close what is due for the keys of this batch and for ``stored`` ones, in the order of the alphabet."""
        due = {key for key, (state, _) in self._open.items() if state.due_ms <= watermark_ms}
        for key in sorted(due.union(stored)):
            self.close(key, watermark_ms)

    def states(self) -> dict[str, KeyWindows | None]:
        """Values to write, by key; None deletes. The fold must not be used any more."""
        return {key: state if state.panes else None for key, (state, _) in self._open.items()}

    def _take(self, key: str, watermark_ms: int) -> tuple[KeyWindows, _Panes]:
        stored = self._stored.get(key)
        if stored is None:
            state = KeyWindows(VERSION, NEVER, watermark_ms, {}, {}, {})
        else:
            revisions = {at: numbers.copy() for at, numbers in stored.revisions.items()}
            changed = {at: starts.copy() for at, starts in stored.changed.items()}
            state = KeyWindows(VERSION, stored.due_ms, stored.closed_ms, stored.panes.copy(), revisions, changed)
        self._open[key] = taken = (state, dict[int, list[Any]]())
        return taken

    def _pane(self, state: KeyWindows, mine: _Panes, time_ms: int, watermark_ms: int) -> list[Any] | None:
        """The accumulators that take this event, as private ones; None when all its windows are past."""
        spec = self._spec
        is_on_time = time_ms >= watermark_ms
        if not is_on_time and time_ms - time_ms % spec.hop_ms + self._kept_ms <= watermark_ms:
            return None
        start_ms = time_ms - time_ms % spec.pane_ms
        shared = state.panes.get(start_ms)
        if shared is None or not is_on_time:
            self._note_windows(state, time_ms, watermark_ms)
        accumulators = mine.get(start_ms)
        if accumulators is None:
            if shared is None:
                accumulators = [aggregate.initialize() for aggregate in spec.aggregates.values()]
            else:
                accumulators = shared.copy()
                for at, copy in self._copies:
                    accumulators[at] = copy(accumulators[at])
            mine[start_ms] = state.panes[start_ms] = accumulators
        return accumulators

    def _note_windows(self, state: KeyWindows, time_ms: int, watermark_ms: int) -> None:
        """Make due what this event opens, or changes after it was closed."""
        state.closed_ms = watermark_ms  # nothing was due; a window that is past must not close by what this event adds
        for at, (_, size_ms) in enumerate(self._spec.outputs):
            for start_ms in self._spec.starts(time_ms, size_ms):
                end_ms = start_ms + size_ms
                if end_ms > watermark_ms:
                    state.due_ms = min(state.due_ms, end_ms)
                    break
                if end_ms + self._lateness_ms > watermark_ms:
                    state.changed.setdefault(at, []).append(start_ms)
                    state.due_ms = watermark_ms

    def _settle(self, key: str, state: KeyWindows, watermark_ms: int) -> None:
        """Publish the windows that the watermark has passed, and forget panes and revisions beyond the lateness."""
        spec, due_ms, numbers = self._spec, NEVER, dict[int, dict[int, int]]()
        for at, (_, size_ms) in enumerate(spec.outputs):
            starts = {start_ms for pane_ms in state.panes for start_ms in spec.starts(pane_ms, size_ms)}
            revisions = state.revisions.get(at, {})
            due = {start_ms for start_ms in starts if state.closed_ms < start_ms + size_ms <= watermark_ms}
            for start_ms in sorted(due.union(state.changed.get(at, ()))):
                self.closed.append(self._publish(key, state.panes, start_ms, at, revisions.get(start_ms, 0)))
                revisions[start_ms] = revisions.get(start_ms, 0) + 1
            kept = {start_ms for start_ms in starts if start_ms + size_ms + self._lateness_ms > watermark_ms}
            if left := {start_ms: number for start_ms, number in revisions.items() if start_ms in kept}:
                numbers[at] = left
            due_ms = min(due_ms, self._next_ms(kept, size_ms, watermark_ms))
        kept_from_ms = watermark_ms - self._kept_ms  # that of the longest, which keeps a pane longest
        state.panes = {pane_ms: pane for pane_ms, pane in state.panes.items() if pane_ms - pane_ms % spec.hop_ms > kept_from_ms}
        state.revisions, state.changed, state.closed_ms, state.due_ms = numbers, {}, watermark_ms, due_ms

    def _next_ms(self, starts: Iterable[int], size_ms: int, closed_ms: int) -> int:
        """The next end of a window, or the next time that something is forgotten."""
        next_ms = NEVER
        for start_ms in starts:
            end_ms = start_ms + size_ms
            next_ms = min(next_ms, end_ms if end_ms > closed_ms else end_ms + self._lateness_ms)
        return next_ms

    def _publish(self, key: str, panes: _Panes, start_ms: int, at: int, revision: int) -> ClosedWindow:
        name, size_ms = self._spec.outputs[at]
        results = results_of(self._spec, panes, start_ms, size_ms)
        return ClosedWindow(name, key, start_ms, start_ms + size_ms, revision, results)

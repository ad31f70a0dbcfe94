"""Windows with few keys and much traffic: every source partition counts for itself, and what it has closed is added up.

    source partition   WindowFold of ``local(spec)`` -> closed windows with accumulators instead of results
    downstream         PartialFold: one part per source partition, the newest revision of each -> closed windows

Only closed windows travel, not events. A part is known by window, key, start and source partition, so one that comes
again changes nothing. A source partition tells a watermark only when all that it closes is told with it or before; so
when the least watermark of all has passed a window, all its parts are there, and what comes after that came before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

import msgspec

from app.domain.aggregates import Aggregate
from app.domain.windows import NEVER, ClosedWindow, UnreadableWindowsError, WindowSpec

E = TypeVar("E")

VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class _Raw(Generic[E]):
    """An aggregate whose result is its accumulator."""

    of: Aggregate[E, Any]

    def initialize(self) -> Any:
        return self.of.initialize()

    def add(self, acc: Any, event: E, /) -> Any:
        return self.of.add(acc, event)

    def merge(self, left: Any, right: Any, /) -> Any:
        return self.of.merge(left, right)

    def result(self, acc: Any, /) -> Any:
        return acc

    def copy(self, acc: Any, /) -> Any:
        return self.of.copy(acc)


def local(spec: WindowSpec[E]) -> WindowSpec[E]:
    """What a source partition folds: the same windows, closed with accumulators."""
    return replace(spec, aggregates={name: _Raw(aggregate) for name, aggregate in spec.aggregates.items()})


class Part(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One closed window of one source partition."""

    #: Name of its output.
    name: str
    key: str
    start_ms: int
    revision: int
    accumulators: list[Any]

    @classmethod
    def of(cls, closed: ClosedWindow) -> Part:
        """What ``local(spec)`` has closed."""
        return cls(closed.name, closed.key, closed.start_ms, closed.revision, list(closed.results.values()))


class PartialWindow(msgspec.Struct, gc=False, array_like=True):
    """One window: by source partition its revision and accumulators; how often it was published."""

    parts: dict[int, tuple[int, list[Any]]] = {}
    revision: int = 0
    is_changed: bool = True


class KeyPartials(msgspec.Struct, gc=False, array_like=True):
    """What is stored of one key: windows by output and start; never changed once stored."""

    version: int = VERSION
    #: From this watermark on, ``PartialFold.close_all`` has something to do for this key.
    due_ms: int = NEVER
    windows: dict[str, dict[int, PartialWindow]] = {}


_decode: Final = msgspec.msgpack.Decoder(KeyPartials).decode


def decode_partials(raw: bytes) -> KeyPartials:
    """Read a stored value of any known version.

    Raises:
        UnreadableWindowsError: a newer build wrote it.
        msgspec.DecodeError: it is not stored parts at all.
    """
    state = _decode(raw)
    if state.version != VERSION:
        raise UnreadableWindowsError(state.version)
    return state


class PartialFold:
    """One batch of one spec in progress. It changes private copies; dropping it undoes everything.

    Args:
        stored: states of the batch's keys, and of those to close, as far as they exist.
    """

    def __init__(self, spec: WindowSpec[Any], stored: Mapping[str, KeyPartials]) -> None:
        self._spec = spec
        self._sizes = dict(spec.outputs)
        self._stored = stored
        self._open: dict[str, KeyPartials] = {}
        #: To publish, in order.
        self.closed: list[ClosedWindow] = []

    def add(self, upstream: int, part: Part, watermark_ms: int) -> None:
        """Take one part in. One that comes again changes nothing: it is no newer than what is known, or its window is forgotten.

        Args:
            watermark_ms: the least of all source partitions before this part came. It is never past a new part's window.
        """
        size_ms = self._sizes.get(part.name)
        if size_ms is None or part.start_ms + size_ms + self._spec.allowed_lateness_ms <= watermark_ms:
            return
        state = self._take(part.key)
        windows = state.windows.setdefault(part.name, {})
        window = windows.get(part.start_ms) or PartialWindow({}, 0, False)
        known = window.parts.get(upstream)
        if known is not None and known[0] >= part.revision:
            return
        parts = window.parts | {upstream: (part.revision, part.accumulators)}
        windows[part.start_ms] = PartialWindow(parts, window.revision, True)
        state.due_ms = min(state.due_ms, part.start_ms + size_ms)

    def close_all(self, stored: Iterable[str], watermark_ms: int) -> None:
        """Close what is due for the keys of this batch and for ``stored`` ones, in the order of the alphabet."""
        for key in sorted(set(self._open).union(stored)):
            if key in self._open or key in self._stored:
                state = self._take(key)
                if state.due_ms <= watermark_ms:
                    self._settle(key, state, watermark_ms)

    def states(self) -> dict[str, KeyPartials | None]:
        """Values to write, by key; None deletes. The fold must not be used any more."""
        return {key: state if state.windows else None for key, state in self._open.items()}

    def _take(self, key: str) -> KeyPartials:
        state = self._open.get(key)
        if state is None:
            stored = self._stored.get(key)
            windows = {} if stored is None else {name: of_name.copy() for name, of_name in stored.windows.items()}
            state = self._open[key] = KeyPartials(VERSION, NEVER if stored is None else stored.due_ms, windows)
        return state

    def _settle(self, key: str, state: KeyPartials, watermark_ms: int) -> None:
        """Publish the windows that the watermark has passed, and forget those beyond the allowed lateness."""
        kept: dict[str, dict[int, PartialWindow]] = {}
        due_ms, lateness_ms = NEVER, self._spec.allowed_lateness_ms
        for name, size_ms in self._spec.outputs:
            for start_ms, window in sorted(state.windows.get(name, {}).items()):
                end_ms = start_ms + size_ms
                if window.is_changed and end_ms <= watermark_ms:
                    self.closed.append(self._publish(name, key, start_ms, end_ms, window))
                    window = PartialWindow(window.parts, window.revision + 1, False)  # noqa: PLW2901
                if end_ms + lateness_ms > watermark_ms:
                    kept.setdefault(name, {})[start_ms] = window
                    due_ms = min(due_ms, end_ms if window.is_changed else end_ms + lateness_ms)
        state.windows, state.due_ms = kept, due_ms

    def _publish(self, name: str, key: str, start_ms: int, end_ms: int, window: PartialWindow) -> ClosedWindow:
        results = {}
        for at, (result, aggregate) in enumerate(self._spec.aggregates.items()):
            first, *rest = (accumulators[at] for _, (_, accumulators) in sorted(window.parts.items()))
            for accumulator in rest:
                first = aggregate.merge(first, accumulator)
            results[result] = aggregate.result(first)
        return ClosedWindow(name, key, start_ms, end_ms, window.revision, results)

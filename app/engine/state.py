"""State as an agent's body sees it: decoded values, read many at a time, staged until the unit is accepted.

Three layers, newest first: what this run has written (:class:`Stage`), decoded values in memory that
include those of units still on their way to the changelog (``hot``), RocksDB. A run that is thrown away
leaves no trace; an accepted one moves into ``hot`` at once, so that the next unit computes on it while
this one waits for its acknowledgements.

Views that say when their values are due have an index by time beside them: built from RocksDB when the lane opens, and
kept by what runs wrote that count. A run that is thrown away gives back the keys that it was told.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, cast

from app.domain.damage import DamagedState
from app.domain.due_index import DueIndex
from app.engine.api import BoundView, View
from app.engine.store import PartitionStore

V = TypeVar("V")

#: Keys that one run is told at most: what it does to them must fit one RecordBatch, with the rest of the unit.
MOST_DUE = 1000


class UndecodableValue(DamagedState):
    """A stored value does not decode as its view's type.

    Operator action: run the build that wrote it; if no build did, stop the worker and delete its data
    directory, and the table is rebuilt from the changelog.
    """

    def __init__(self, view: str, raw_key: bytes) -> None:
        super().__init__(f"a stored value of {view} does not decode: run the build that wrote it, or rebuild the table")
        self.view = view
        self.raw_key = raw_key  # not in the message, which is logged: it holds a user id


class LaneState:
    """The decoded hot values of one lane over its store.

    Args:
        limit: values kept in memory.
        views: of the lane's agent; those with ``due_ms`` are read whole.
    """

    def __init__(self, store: PartitionStore, limit: int, views: Iterable[View[Any]] = ()) -> None:
        self.store = store
        self.limit = limit
        self.hot: dict[bytes, Any] = {}
        self.is_due_left = False
        """The last run that counted was not told all that was due"""
        self.most_due = MOST_DUE
        self.cursors: dict[bytes, bytes] = {}
        """How far the sweep of a view is, by its prefix"""
        self._unsettled: deque[dict[bytes, bytes | None]] = deque()
        self._due_views = {view.prefix: view.name for view in views if view.due_ms is not None}
        self.dues = {view.prefix: self._index(view) for view in views if view.due_ms is not None}

    def stage(self) -> Stage:
        """A fresh layer for one run of the body."""
        return Stage(self)

    def load(self, view: View[V], raw_keys: list[bytes]) -> None:
        """Bring the existing ones of ``raw_keys`` into memory."""
        hot = self.hot
        for raw, value in zip(raw_keys, self.store.get_many(raw_keys), strict=True):
            if value is not None:
                hot[raw] = decoded(view, raw, value)

    def waiting(self) -> dict[str, int]:
        """How many keys wait for their time, by view."""
        return {name: len(self.dues[prefix]) for prefix, name in self._due_views.items()}

    def _index(self, view: View[Any]) -> DueIndex[bytes]:
        due_ms = cast("Callable[[Any], int]", view.due_ms)
        return DueIndex((raw, due_ms(decoded(view, raw, value))) for raw, value in self.store.scan_all(view.prefix))

    def accept(self, stage: Stage, encoded: dict[bytes, bytes | None]) -> None:
        """A run counts: its writes become visible to the next ones, and stay in memory until they are on disk.

        Newest writes go to the back. ``encoded`` is ``stage.encode()``; the unit that it becomes part of may add to it.
        """
        hot = self.hot
        for raw, (view, value) in stage.writes.items():
            hot.pop(raw, None)
            hot[raw] = value
            if view.due_ms is not None and value is not None:
                self.dues[view.prefix].note(raw, view.due_ms(value))
        self._unsettled.append(encoded)
        self._give_back(stage)
        if stage.told:
            self.most_due = min(MOST_DUE, 2 * self.most_due)

    def discard(self, stage: Stage) -> None:
        """A run does not count."""
        stage.writes.clear()
        self._give_back(stage)

    def tell_fewer(self, stage: Stage) -> bool:
        """A discarded run has done too much at once; whether another one, with fewer keys that are due, can do less."""
        can_do_less = len(stage.told) > 0 and self.most_due > 1
        if can_do_less:
            self.most_due = max(1, self.most_due // 4)
        return can_do_less

    def _give_back(self, stage: Stage) -> None:
        """Keys that the run was told and did not write are told again, when their value is due."""
        self.is_due_left = stage.is_due_left
        for view, keys in stage.told:
            due_ms, index, prefix = cast("Callable[[Any], int]", view.due_ms), self.dues[view.prefix], view.prefix
            kept = stage.view(view).get_many(key for key in keys if prefix + key.encode() not in stage.writes)
            for key, value in kept.items():
                index.note(prefix + key.encode(), due_ms(value))

    def settle(self, runs: int) -> None:
        """The oldest ``runs`` accepted runs are in RocksDB: shrink to the limit, oldest values first."""
        for _ in range(runs):
            self._unsettled.popleft()
        excess = len(self.hot) - self.limit
        if excess <= 0:
            return
        pinned: set[bytes] = set().union(*self._unsettled)
        for raw in list(itertools.islice((raw for raw in self.hot if raw not in pinned), excess)):
            del self.hot[raw]


class Stage:
    """Reads and writes of one run of the body (the ``state`` of a batch)."""

    __slots__ = ("is_due_left", "lane", "told", "writes")

    def __init__(self, lane: LaneState) -> None:
        self.lane = lane
        self.writes: dict[bytes, tuple[View[Any], Any]] = {}
        self.told: list[tuple[View[Any], list[str]]] = []
        """Keys that are due, as the run was told them"""
        self.is_due_left = False

    def view(self, view: View[V]) -> BoundView[V]:
        """``view`` with this partition's values."""
        return StagedView(view, self)

    def encode(self) -> dict[bytes, bytes | None]:
        """Raw key to raw value of everything written, None for a delete."""
        return {raw: None if value is None else view.encode(value) for raw, (view, value) in self.writes.items()}


class StagedView(Generic[V]):
    """One typed view over a stage; see :class:`app.engine.api.BoundView`."""

    __slots__ = ("_lane", "_stage", "_view", "_writes")

    def __init__(self, view: View[V], stage: Stage) -> None:
        self._view = view
        self._stage = stage
        self._lane = stage.lane
        self._writes = stage.writes

    def get_many(self, keys: Iterable[str]) -> dict[str, V]:
        """Existing values by key; one multi-get for all that are not in memory."""
        prefix, writes, lane = self._view.prefix, self._writes, self._lane
        raw_of = {key: prefix + key.encode() for key in keys}
        hot = lane.hot
        missing = [raw for raw in raw_of.values() if raw not in hot and raw not in writes]
        if missing:
            lane.load(self._view, missing)
        found: dict[str, V] = {}
        for key, raw in raw_of.items():
            value = writes[raw][1] if raw in writes else hot.get(raw)
            if value is not None:
                found[key] = cast("V", value)
        return found

    def get(self, key: str) -> V | None:
        """One value, None if absent."""
        return self.get_many((key,)).get(key)

    def put(self, key: str, value: V) -> None:
        """Stage a value."""
        self._writes[self._view.raw_key(key)] = (self._view, value)

    def delete(self, key: str) -> None:
        """Stage a delete."""
        self._writes[self._view.raw_key(key)] = (self._view, None)

    def due(self, watermark_ms: int) -> list[str]:
        """Keys that may be due, a bounded number."""
        lane, stage = self._lane, self._stage
        start = len(self._view.prefix)
        keys = [raw[start:].decode() for raw in lane.dues[self._view.prefix].due(watermark_ms, lane.most_due)]
        if keys:
            stage.told.append((self._view, keys))
            stage.is_due_left |= len(keys) == lane.most_due
        return keys

    def sweep(self, count: int) -> dict[str, V]:
        """The next values in key order, from the first on again after the last. They are not kept in memory."""
        view, writes, lane = self._view, self._writes, self._lane
        hot, start = lane.hot, len(view.prefix)
        page = lane.store.scan(view.prefix, lane.cursors.get(view.prefix, b""), count)
        lane.cursors[view.prefix] = page[-1][0] if len(page) == count else b""
        found: dict[str, V] = {}
        for raw, stored in page:
            value = writes[raw][1] if raw in writes else hot[raw] if raw in hot else decoded(view, raw, stored)
            if value is not None:
                found[raw[start:].decode()] = value
        return found


def decoded(view: View[V], raw_key: bytes, value: bytes) -> V:
    """A stored value.

    Raises:
        DamagedState: it does not decode.
    """
    try:
        return view.decode(value)
    except DamagedState:
        raise
    except Exception as exc:  # a view may bring its own decoder, which raises what it likes
        raise UndecodableValue(view.name, raw_key) from exc

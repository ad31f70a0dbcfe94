"""State as an agent's body sees it: decoded values, read many at a time, staged until the unit is accepted.

Three layers, newest first: what this run has written (:class:`Stage`), decoded values in memory that
include those of units still on their way to the changelog (``hot``), RocksDB. A run that is thrown away
leaves no trace; an accepted one moves into ``hot`` at once, so that the next unit computes on it while
this one waits for its acknowledgements.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import Any, Generic, TypeVar, cast

from app.domain.damage import DamagedState
from app.engine.api import BoundView, View
from app.engine.store import PartitionStore

V = TypeVar("V")


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
    """The decoded hot values of one lane over its store."""

    def __init__(self, store: PartitionStore, limit: int) -> None:
        self.store = store
        self.limit = limit
        self.hot: dict[bytes, Any] = {}
        self._unsettled: deque[dict[bytes, bytes | None]] = deque()

    def stage(self) -> Stage:
        """A fresh layer for one run of the body."""
        return Stage(self)

    def load(self, view: View[V], raw_keys: list[bytes]) -> None:
        """Bring the existing ones of ``raw_keys`` into memory."""
        decode, hot = view.decode, self.hot
        for raw, value in zip(raw_keys, self.store.get_many(raw_keys), strict=True):
            if value is not None:
                try:
                    hot[raw] = decode(value)
                except DamagedState:
                    raise
                except Exception as exc:  # a view may bring its own decoder, which raises what it likes
                    raise UndecodableValue(view.name, raw) from exc

    def accept(self, stage: Stage, encoded: dict[bytes, bytes | None]) -> None:
        """A run counts: its writes become visible to the next ones, and stay in memory until they are on disk.

        Newest writes go to the back. ``encoded`` is ``stage.encode()``; the unit that it becomes part of may add to it.
        """
        hot = self.hot
        for raw, (_, value) in stage.writes.items():
            hot.pop(raw, None)
            hot[raw] = value
        self._unsettled.append(encoded)

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

    __slots__ = ("_lane", "writes")

    def __init__(self, lane: LaneState) -> None:
        self._lane = lane
        self.writes: dict[bytes, tuple[View[Any], Any]] = {}

    def view(self, view: View[V]) -> BoundView[V]:
        """``view`` with this partition's values."""
        return StagedView(view, self._lane, self.writes)

    def encode(self) -> dict[bytes, bytes | None]:
        """Raw key to raw value of everything written, None for a delete."""
        return {raw: None if value is None else view.encode(value) for raw, (view, value) in self.writes.items()}


class StagedView(Generic[V]):
    """One typed view over a stage; see :class:`app.engine.api.BoundView`."""

    __slots__ = ("_lane", "_view", "_writes")

    def __init__(self, view: View[V], lane: LaneState, writes: dict[bytes, tuple[View[Any], Any]]) -> None:
        self._view = view
        self._lane = lane
        self._writes = writes

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

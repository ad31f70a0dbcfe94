"""In-memory stand-ins for what the engine gives an agent. Values are stored encoded, as the real table does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.engine.api import BoundView, Effects, LaneId, View

C = TypeVar("C")
V = TypeVar("V")


@dataclass(slots=True)
class FakeRecord:
    """A consumed record; ``timestamp`` is epoch ms."""

    value: bytes | None
    key: bytes | None = None
    offset: int = 0
    timestamp: int = 0
    partition: int = 0
    topic: str = "interactions"
    timestamp_type: int = 0
    headers: Sequence[tuple[str, bytes | None]] = ()


class FakeView(Generic[V]):
    """A view over the shared mapping of raw keys to raw values."""

    def __init__(self, view: View[V], state: FakeState) -> None:
        self._view = view
        self._state = state

    def get_many(self, keys: Iterable[str]) -> dict[str, V]:
        found = {key: self.get(key) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def get(self, key: str) -> V | None:
        self._state.reads.append(self._view.raw_key(key))
        raw = self._state.raw.get(self._view.raw_key(key))
        return None if raw is None else self._view.decode(raw)

    def put(self, key: str, value: V) -> None:
        self._state.write(self._view.raw_key(key), self._view.encode(value))

    def delete(self, key: str) -> None:
        self._state.write(self._view.raw_key(key), None)


class FakeState:
    """One partition's table: ``raw`` is its content, ``writes`` all writes in order, ``reads`` all raw keys read."""

    def __init__(self, raw: dict[bytes, bytes] | None = None) -> None:
        self.raw: dict[bytes, bytes] = dict(raw or {})
        self.writes: list[tuple[bytes, bytes | None]] = []
        self.reads: list[bytes] = []

    def view(self, view: View[V]) -> BoundView[V]:
        return FakeView(view, self)

    def write(self, key: bytes, value: bytes | None) -> None:
        self.writes.append((key, value))
        if value is None:
            self.raw.pop(key, None)
        else:
            self.raw[key] = value


@dataclass(slots=True)
class FakeBatch(Generic[C]):
    """What an agent's body is called with."""

    records: Sequence[FakeRecord]
    context: C
    state: FakeState = field(default_factory=FakeState)
    lane: LaneId = LaneId("process_interactions", 0)
    topic: str = "interactions"

    def effects(self) -> Effects:
        return Effects()


def as_batch(batch: FakeBatch[C]) -> Any:
    """The fake under the type of the engine's protocol (its attributes are invariant for the type checker)."""
    return batch

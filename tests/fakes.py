"""In-memory stand-ins for what the engine gives an agent (values are stored encoded, as the real table does) and for the producer."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from app.engine.api import BoundView, Effects, LaneId, View
from app.engine.writer import Addressed

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

    def due(self, watermark_ms: int) -> list[str]:
        due_ms = self._view.due_ms
        assert due_ms is not None, f"{self._view.name} does not say when its values are due"
        return [key for key, value in self._all().items() if due_ms(value) <= watermark_ms]

    def sweep(self, count: int) -> dict[str, V]:
        prefix, after = self._view.prefix, self._state.cursors.get(self._view.prefix, "")
        page = dict([(key, value) for key, value in self._all().items() if key > after][:count])
        self._state.cursors[prefix] = max(page) if len(page) == count else ""
        return page

    def _all(self) -> dict[str, V]:
        prefix = self._view.prefix
        return {
            raw[len(prefix) :].decode(): self._view.decode(self._state.raw[raw])
            for raw in sorted(self._state.raw)
            if raw.startswith(prefix)
        }


class FakeState:
    """One partition's table: ``raw`` is its content, ``writes`` all writes in order, ``reads`` all raw keys read."""

    def __init__(self, raw: dict[bytes, bytes] | None = None) -> None:
        self.raw: dict[bytes, bytes] = dict(raw or {})
        self.writes: list[tuple[bytes, bytes | None]] = []
        self.reads: list[bytes] = []
        self.cursors: dict[bytes, str] = {}
        self.is_due_left = False

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
    lane: LaneId = field(default_factory=lambda: LaneId("process_interactions", 0))
    topic: str = "interactions"
    idle_ms: int | None = None

    def effects(self) -> Effects:
        return Effects()


def as_batch(batch: FakeBatch[C]) -> Any:
    """The fake under the type of the engine's protocol (its attributes are invariant for the type checker)."""
    return batch


class Produced(NamedTuple):
    """One record as a consumer would read it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


def produced(batch: BatchBuilder) -> list[Produced]:
    """The records of a RecordBatch, read back from its bytes; ends the batch."""
    records = MemoryRecords(bytes(batch._build())).next_batch()
    return [Produced(r.offset, r.timestamp, r.key, r.value, tuple(r.headers)) for r in records or ()]


@dataclass(slots=True, eq=False)
class Sent:
    """One RecordBatch on its way; the test acknowledges or fails it."""

    topic: str
    partition: int
    records: list[Produced]
    answer: asyncio.Future[int]
    delivery: FakeDelivery

    def ack(self) -> None:
        """The broker has it: it is in the log from now on."""
        log = self.delivery.logs[self.topic, self.partition]
        self.answer.set_result(len(log))
        log.extend(self.records)

    def fail(self, exc: BaseException) -> None:
        """The broker refuses it."""
        self.answer.set_exception(exc)


class FakeDelivery:
    """A ``Producing`` whose acknowledgements the test releases by hand, in any order.

    ``outputs`` and ``states`` hold what was sent, oldest first; ``logs`` what was acknowledged, by topic and
    partition. ``open`` is cleared to make ``publish`` wait, as for a partition whose previous batch is still queued.
    """

    def __init__(self, acknowledge: bool = False) -> None:
        self.acknowledge = acknowledge
        self.open = asyncio.Event()
        self.open.set()
        self.outputs: list[Sent] = []
        self.states: list[Sent] = []
        self.logs: defaultdict[tuple[str, int], list[Produced]] = defaultdict(list)

    def unanswered(self) -> list[Sent]:
        """Everything sent that is neither acknowledged nor failed."""
        return [sent for sent in (*self.outputs, *self.states) if not sent.answer.done()]

    async def publish(self, batches: Iterable[Addressed]) -> list[asyncio.Future[Any]]:
        await self.open.wait()
        return [self._send(self.outputs, topic, partition, batch).answer for topic, partition, batch in batches]

    async def log_state(self, topic: str, partition: int, batch: BatchBuilder) -> int:
        return await self._send(self.states, topic, partition, batch).answer

    def _send(self, sent: list[Sent], topic: str, partition: int, batch: BatchBuilder) -> Sent:
        one = Sent(topic, partition, produced(batch), asyncio.get_running_loop().create_future(), self)
        sent.append(one)
        if self.acknowledge:
            one.ack()
        return one

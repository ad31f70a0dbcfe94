"""What an agent sees of the engine: a batch of records, a typed state view, effects to return.

An agent is ``async def name(batch: Batch) -> Effects``, declared with ``@registry.agent(...)`` in its own
file under ``agents/``. Its body runs once per micro-batch: records of one partition, in offset order.
It must give every record exactly one outcome (``emit``, ``duplicate``, ``retry``, ``dead_letter``, ``drop``) and must
change nothing but the state view: the engine may throw the result away and call again with fewer records.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

import msgspec

C = TypeVar("C")
V = TypeVar("V")

#: Key of the changelog record that ``veltrix reset`` appends: whoever meets it forgets everything before.
RESET_KEY = b"\0veltrix/reset"

Header = tuple[str, bytes | None]
Stage = Literal["decode", "validate", "dedupe", "enrich", "aggregate", "publish"]
LookupKeys = Literal["user", "plain", "partition"]
Disposition = Literal["invalid", "retries_exhausted", "transient_timeout", "late", "oversize", "shed", "parked"]


class Record(Protocol):
    """A consumed record (aiokafka's ``ConsumerRecord`` fits). ``timestamp`` is epoch ms, ``timestamp_type`` 0 create, 1 append."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int
    timestamp_type: int
    headers: Sequence[tuple[str, bytes | None]]


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to produce. ``partition`` None: that of its source record's number (topics are co-partitioned)."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...] = ()
    partition: int | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a record becomes a dead letter. ``message`` never holds payload text."""

    stage: Stage
    reason: str
    message: str = ""
    disposition: Disposition = "invalid"
    exception: BaseException | None = None
    traceparent: bytes = b""
    """W3C context of the span that recorded it; set by the engine"""


class Transient(Exception):
    """Raise it in a body: something that its records need does not answer now. They are retried later, not parked.

    So are records for which a body raises ``TimeoutError`` or ``ConnectionError``.
    """


class Retry(NamedTuple):
    """Where a failed record waits: in ``topic``, until ``due_ms`` (epoch ms). ``attempt``: how often it failed, from 1."""

    topic: str
    due_ms: int
    attempt: int


class Effects:
    """What one run of an agent's body decided, record by record. Created by ``batch.effects()``."""

    __slots__ = (
        "_offsets",
        "aside",
        "dead_letters",
        "dropped",
        "duplicates",
        "emitted",
        "late_events",
        "outputs",
        "published",
        "reached",
        "retries",
        "retrying",
        "steps",
    )

    def __init__(self) -> None:
        self.outputs: list[tuple[Record, Output]] = []
        self.published: list[Output] = []
        self.dead_letters: list[tuple[Record, Failure]] = []
        self.aside: list[tuple[Record, Failure]] = []
        self.retrying: list[tuple[Record, Failure]] = []
        self.retries: list[tuple[Record, Failure, Retry]] = []
        self.late_events: dict[str, int] = {}
        self.steps: dict[str, float] = {}
        self.reached: dict[str, float] = {}
        self.emitted = 0
        self.duplicates = 0
        self.dropped = 0
        self._offsets: list[int] = []

    def emit(self, record: Record, *outputs: Output) -> None:
        """``record`` is processed; publish ``outputs``: all of them in this one call, or none for a state-only agent."""
        self._offsets.append(record.offset)
        self.emitted += 1
        for output in outputs:
            self.outputs.append((record, output))

    def duplicate(self, record: Record) -> None:
        """``record`` was seen before; nothing is published."""
        self._offsets.append(record.offset)
        self.duplicates += 1

    def dead_letter(self, record: Record, failure: Failure) -> None:
        """``record`` cannot be processed: park it with its reason."""
        self._offsets.append(record.offset)
        self.dead_letters.append((record, failure))

    def retry(self, record: Record, failure: Failure) -> None:
        """``record`` cannot be processed now: try again later. A dead letter when that was tried too often, or for too long."""
        self._offsets.append(record.offset)
        self.retrying.append((record, failure))

    def waits(self, record: Record, failure: Failure, retry: Retry | None) -> None:
        """``record`` waits for another one in ``retry``; None: it has waited for too long. Called by the engine."""
        self._offsets.append(record.offset)
        if retry is None:
            self.dead_letters.append((record, failure))
        else:
            self.retries.append((record, failure, retry))

    def plan_retries(self, retries: Retries | None, now_ms: int) -> None:
        """Decide what becomes of each ``retry``: another attempt, or a dead letter. Called by the engine."""
        for record, failure in self.retrying:
            retry = None if retries is None else retries.plan(record, now_ms)
            if retry is not None:
                self.retries.append((record, failure, retry))
            else:
                self.dead_letters.append(
                    (record, failure if retries is None else msgspec.structs.replace(failure, disposition="retries_exhausted"))
                )
        self.retrying = []

    def drop(self, record: Record, policy: str) -> None:
        """``record`` is left out on purpose, by the named policy."""
        self._offsets.append(record.offset)
        self.dropped += 1

    def step(self, name: str, since: float) -> float:
        """What the body has done since then, for the metrics. Both are ``time.perf_counter()`` seconds; returns now."""
        now = self.reached[name] = time.perf_counter()
        self.steps[name] = self.steps.get(name, 0.0) + now - since
        return now

    def publish(self, *outputs: Output) -> None:
        """Publish what the batch as a whole brought about (a window closed), beside what its records did.

        Their header ``veltrix-source`` names the last record; what tells repetitions apart must be in key and value.
        """
        self.published += outputs

    def set_aside(self, record: Record, failure: Failure) -> None:
        """Park a copy of ``record`` beside its outcome: one of its results leaves it out. Not counted as an outcome."""
        self.aside.append((record, failure))

    def late(self, result: str, count: int) -> None:
        """So many events came too late for ``result`` (a metric's label: one of a few). Not an outcome either."""
        if count:
            self.late_events[result] = self.late_events.get(result, 0) + count

    def covers(self, records: Sequence[Record]) -> bool:
        """Whether each of ``records`` has exactly one outcome, and no other record has one."""
        return sorted(self._offsets) == [record.offset for record in records]

    def outcomes(self) -> int:
        """How many outcomes were given."""
        return len(self._offsets)


class LaneId(NamedTuple):
    """One partition number of one agent: the unit of ordering, state and ownership."""

    agent: str
    partition: int

    def __str__(self) -> str:
        return f"{self.agent}-{self.partition}"


@dataclass(frozen=True, slots=True)
class View(Generic[V]):
    """A typed part of an agent's one table: all keys under ``prefix``, values of one type.

    Declared in ``tables/``. ``lookup`` names the REST resource that serves it from Redis, if any, ``lookup_keys`` whose keys
    it has: users', of topics partitioned by themselves, or the same ones in each partition. ``due_ms`` says from
    which watermark on a value has something to close: its keys can then be asked for by time (``BoundView.due``).
    """

    name: str
    prefix: bytes
    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]
    lookup: str | None = None
    due_ms: Callable[[V], int] | None = None
    lookup_keys: LookupKeys = "user"

    def raw_key(self, key: str) -> bytes:
        """The key as RocksDB, changelog and Redis hold it."""
        return self.prefix + key.encode()


def struct_view(name: str, prefix: bytes, value: type[V], lookup: str | None = None) -> View[V]:
    """A view of msgspec Structs as MessagePack (declare them ``array_like=True``: values stay small)."""
    return View(name, prefix, msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(value).decode, lookup)


class BoundView(Protocol[V]):
    """A view as the body uses it: reads see every earlier write of this partition, also the unwritten ones."""

    def get_many(self, keys: Iterable[str]) -> dict[str, V]:
        """Values of those keys that exist. One RocksDB multi-get for all that are not in memory."""
        ...

    def get(self, key: str) -> V | None: ...

    def put(self, key: str, value: V) -> None:
        """Values must be immutable, or never changed after ``put``."""
        ...

    def delete(self, key: str) -> None: ...

    def due(self, watermark_ms: int) -> list[str]:
        """Keys whose value may have something to close by ``watermark_ms``; only of views with ``due_ms``.

        A bounded number; the body is called again soon, without records, when there are more. Each is told once: it is
        told again when its value, as it is after this batch, is due.
        """
        ...

    def sweep(self, count: int) -> dict[str, V]:
        """The next ``count`` values of a round through all keys that never ends. For forgetting what is out of date."""
        ...


def put_all(view: BoundView[V], values: Mapping[str, V | None]) -> None:
    """Stage many values; None is a delete."""
    for key, value in values.items():
        if value is None:
            view.delete(key)
        else:
            view.put(key, value)


class State(Protocol):
    """The agent's table, for one partition."""

    is_due_left: bool
    """``BoundView.due`` has not told all that is due"""

    def view(self, view: View[V]) -> BoundView[V]: ...


class Batch(Protocol[C]):
    """What an agent's body is called with. ``context`` is what the declaration's ``setup(settings)`` returned.

    An agent that was declared with ``ticks`` is also called without records, about twice a second while nothing comes.
    """

    lane: LaneId
    topic: str
    records: Sequence[Record]
    state: State
    context: C
    idle_ms: int | None
    """Wall clock, epoch ms, in a call without records while the partition is read to its end; else None"""

    def effects(self) -> Effects: ...


Body = Callable[[Any], Awaitable[Effects]]


class DeadLetterEncoder(Protocol):
    """Builds the dead letter of a record: its topic, original key and value, all headers. With ``retry``, what waits there."""

    def __call__(self, record: Record, failure: Failure, failed_at_ms: int, retry: Retry | None = None) -> Output: ...


class Retries(Protocol):
    """When and where the failed records of one source are tried again."""

    @property
    def source(self) -> str:
        """The topic whose records these are."""
        ...

    @property
    def topics(self) -> Sequence[str]:
        """Of the tiers, co-partitioned with the source; whoever reads the source reads them too."""
        ...

    def plan(self, record: Record, now_ms: int) -> Retry | None:
        """The next attempt of ``record``, which has just failed; None: it was tried often and long enough."""
        ...

    def wait(self, record: Record, now_ms: int) -> Retry | None:
        """Where ``record``, which has not failed, waits for its turn; None: it has waited for too long."""
        ...

    def arrived(self, record: Record) -> tuple[int, Record]:
        """A record of a tier: when it is due (epoch ms), and itself with the timestamp that it had in the source."""
        ...

    def origin(self, record: Record) -> int:
        """Offset in the source under which ``record`` came first: itself, or what it is a retry or a replay of."""
        ...

    def is_release(self, record: Record) -> bool:
        """Whether this record of a tier says that its origin was discarded, and nothing else."""
        ...

"""Traces through the engine: what a lane asks before a run, and tells after it. Protocols, and the tracing that only passes on.

The engine knows no tracing library. A record's W3C trace context (https://www.w3.org/TR/trace-context/) goes on to its
outputs whether or not anybody records spans here: :class:`PassOn` does that alone, ``app.telemetry.tracing`` does both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final, Protocol

from app.engine.api import Failure, Header, LaneId, Record
from app.engine.status import Stage

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
#: What everybody must be able to pass on (https://www.w3.org/TR/trace-context/#tracestate-limits).
MAX_TRACESTATE_BYTES: Final = 512
_VALID: Final = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class DurableUnit:
    """What a trace is told of a unit that became durable."""

    records: Sequence[Record]
    failures: Mapping[int, Failure]
    """by offset: of dead letters, and of records that are to be tried again"""
    reached_ns: Mapping[Stage, int]
    """wall clock when the unit had come that far, epoch ns"""
    steps: Mapping[str, float]
    """seconds within compute, by what the agent's body says it did"""


class RunTrace(Protocol):
    """The traces that lead through one run of an agent's body, which becomes one unit or more."""

    @property
    def for_outputs(self) -> Mapping[int, tuple[Header, ...]]:
        """Headers that the outputs of a record get, by its offset."""
        ...

    @property
    def for_dead_letters(self) -> Mapping[int, bytes]:
        """``traceparent`` of the span of a record that is recorded, by its offset."""
        ...

    @property
    def trace_id(self) -> str:
        """Of the micro-batch, as 32 hexadecimal digits; empty when it is not recorded."""
        ...

    def current(self) -> AbstractContextManager[object]:
        """Within, spans of databases and Redis belong to the micro-batch."""
        ...

    def computed(self, units: int) -> None:
        """The run became so many units; ``durable`` follows for each."""
        ...

    def durable(self, unit: DurableUnit) -> Sequence[tuple[int, str]]:
        """Timestamp (epoch ms) and trace id of each record of ``unit`` that is recorded."""
        ...


class Tracing(Protocol):
    """Decides which records are recorded."""

    def begin(self, lane: LaneId, records: Sequence[Record], fetched_s_ago: float) -> RunTrace | None:
        """Before each run; None, nearly always: no record is recorded, and none has a context to pass on."""
        ...


@dataclass(slots=True)
class Passing:
    """Contexts that go on to the outputs; nothing is recorded."""

    for_outputs: Mapping[int, tuple[Header, ...]]
    for_dead_letters: Mapping[int, bytes] = field(default_factory=dict, init=False)
    trace_id: str = field(default="", init=False)

    def current(self) -> AbstractContextManager[object]:
        """See :class:`RunTrace`."""
        return nullcontext()

    def computed(self, units: int) -> None:
        """See :class:`RunTrace`."""

    def durable(self, unit: DurableUnit) -> Sequence[tuple[int, str]]:
        """See :class:`RunTrace`."""
        return ()


class PassOn:
    """Tracing that records nothing."""

    def begin(self, lane: LaneId, records: Sequence[Record], fetched_s_ago: float) -> RunTrace | None:
        """See :class:`Tracing`."""
        contexts = contexts_of([record for record in records if record.headers])
        return Passing(contexts) if contexts else None


def contexts_of(records: Iterable[Record]) -> dict[int, tuple[Header, ...]]:
    """The trace headers of those records that have a valid ``traceparent``, by offset.

    A ``tracestate`` means nothing without one, and nobody need pass on a longer one than ``MAX_TRACESTATE_BYTES``:
    what an output carries is bounded, whatever producers send.
    """
    found: dict[int, tuple[Header, ...]] = {}
    for record in records:
        context = {name: value for name, value in record.headers if name in {TRACEPARENT, TRACESTATE} and value}
        if _VALID.fullmatch(context.get(TRACEPARENT, b"")):
            if len(context.get(TRACESTATE, b"")) > MAX_TRACESTATE_BYTES:
                del context[TRACESTATE]
            found[record.offset] = tuple(context.items())
    return found

"""Trace contexts through a lane: passed on to outputs, kept bounded, told when a unit is durable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import pytest

from app.engine.api import Batch, Effects, Header, LaneId, Record
from app.engine.tracing import MAX_TRACESTATE_BYTES, DurableUnit, PassOn, RunTrace, contexts_of
from app.log_context import current_fields
from tests.engine.support import DLQ, LANE, OUT, Rig, count, event, settle
from tests.fakes import FakeDelivery, FakeRecord

PARENT: Header = ("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01")
STATE: Header = ("tracestate", b"vendor=1")
OURS = b"00-" + b"c" * 32 + b"-" + b"d" * 16 + b"-01"


def headed(offset: int, *headers: Header, value: bytes = b"emit") -> FakeRecord:
    record = event(offset, value=value)
    record.headers = headers
    return record


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"garbage", b"00-" + b"0" * 32 + b"-" + b"b" * 16 + b"-01", b"00-" + b"a" * 32 + b"-" + b"0" * 16 + b"-01",
        b"ff-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"00-" + b"A" * 32 + b"-" + b"b" * 16 + b"-01", (PARENT[1] or b"") + b"-x",
    ],
)  # fmt: skip
def test_a_traceparent_that_is_none_is_not_passed_on(value: bytes | None) -> None:
    assert contexts_of([headed(0, ("traceparent", value), STATE)]) == {}


def test_a_tracestate_goes_with_its_traceparent_and_not_without() -> None:
    assert contexts_of([headed(0, STATE, PARENT), headed(1, STATE), headed(2, PARENT)]) == {0: (STATE, PARENT), 2: (PARENT,)}


def test_a_tracestate_that_is_too_long_is_left_behind_and_its_traceparent_is_not() -> None:
    endless: Header = ("tracestate", b"x" * (MAX_TRACESTATE_BYTES + 1))
    assert contexts_of([headed(0, PARENT, endless)]) == {0: (PARENT,)}


def test_nothing_is_begun_for_records_without_headers() -> None:
    assert PassOn().begin(LANE, [event(0), headed(1, ("other", b"1"))], 0.0) is None


@dataclass
class Told:
    """Records what the lane asks and tells; the outputs of offset 1 get ``OURS``."""

    for_outputs: Mapping[int, tuple[Header, ...]] = field(default_factory=lambda: {1: (("traceparent", OURS),)})
    for_dead_letters: Mapping[int, bytes] = field(default_factory=lambda: {2: OURS})
    trace_id: str = "c" * 32
    is_current: bool = False
    units: list[int] = field(default_factory=list)
    durables: list[DurableUnit] = field(default_factory=list)
    traced: list[tuple[int, str]] = field(default_factory=list)

    def current(self) -> AbstractContextManager[object]:
        return self._current()

    @contextmanager
    def _current(self) -> Iterator[None]:
        self.is_current = True
        yield
        self.is_current = False

    def computed(self, units: int) -> None:
        self.units.append(units)

    def durable(self, unit: DurableUnit) -> Sequence[tuple[int, str]]:
        self.durables.append(unit)
        return [(record.timestamp, self.trace_id) for record in unit.records if record.offset == 1]


@dataclass
class FakeTracing:
    trace: Told = field(default_factory=Told)
    begun: list[list[int]] = field(default_factory=list)

    def begin(self, lane: LaneId, records: Sequence[Record], fetched_s_ago: float) -> RunTrace | None:
        self.begun.append([record.offset for record in records])
        return self.trace


def headers_of(rig: Rig, topic: str) -> list[dict[str, bytes | None]]:
    """Of every record sent to ``topic``, in order."""
    return [dict(record.headers) for sent in rig.delivery.outputs if sent.topic == topic for record in sent.records]


def acknowledging() -> FakeDelivery:
    return FakeDelivery(acknowledge=True)


async def test_without_a_tracer_the_context_of_a_record_goes_on_to_its_outputs(start_lane: Callable[..., Rig]) -> None:
    rig = start_lane(delivery=acknowledging())
    rig.lane.offer([event(0), headed(1, PARENT, STATE), event(2)])
    await settle()
    found = headers_of(rig, OUT)
    assert [headers.get("traceparent") for headers in found] == [None, PARENT[1], None]
    assert [headers.get("tracestate") for headers in found] == [None, STATE[1], None]
    assert [unit.traced for unit in rig.observer.units] == [()]


async def test_a_recorded_run_marks_outputs_and_dead_letters_and_is_told_the_end(start_lane: Callable[..., Rig]) -> None:
    tracing = FakeTracing()
    rig = start_lane(delivery=acknowledging(), tracing=tracing)
    rig.lane.offer([event(0), event(1), event(2, value=b"dead")])
    await settle()
    assert tracing.begun == [[0, 1, 2]]
    assert tracing.trace.units == [1]
    assert [headers.get("traceparent") for headers in headers_of(rig, OUT)] == [None, OURS]
    assert [headers.get("trace") for headers in headers_of(rig, DLQ)] == [OURS]
    (durable,) = tracing.trace.durables
    assert [record.offset for record in durable.records] == [0, 1, 2]
    assert {offset: failure.reason for offset, failure in durable.failures.items()} == {2: "bad"}
    assert list(durable.reached_ns) == ["fetched", "taken", "computed", "produced", "visible", "durable"]
    assert sorted(durable.reached_ns.values()) == list(durable.reached_ns.values())
    assert [unit.traced for unit in rig.observer.units] == [[(event(1).timestamp, "c" * 32)]]


async def test_a_body_runs_within_the_trace_and_its_log_lines_know_batch_and_trace(start_lane: Callable[..., Rig]) -> None:
    tracing, seen = FakeTracing(), list[tuple[bool, dict[str, object]]]()

    async def look(batch: Batch[None]) -> Effects:
        seen.append((tracing.trace.is_current, current_fields()))
        return await count(batch)

    start_lane(tracing=tracing, body=look).lane.offer([event(4), event(5)])
    await settle()
    batch = {"agent": "count", "partition": 0, "topic": "source", "batch": "source:0:4-5", "trace.id": "c" * 32}
    assert seen == [(True, batch)]
    assert current_fields() == {}, "a task that is no lane's works on nothing"

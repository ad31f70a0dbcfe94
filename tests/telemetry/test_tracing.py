"""Spans of OpenTelemetry's own SDK, kept in memory: parents, links, times, outcomes, and what outputs carry."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from app.engine.api import Failure, Header, LaneId, Record
from app.engine.status import Stage
from app.engine.tracing import DurableUnit, Passing, RunTrace
from app.telemetry.sampling import Sampler
from app.telemetry.tracing import SpanTracing
from tests.fakes import FakeRecord

TRACE, PARENT = "a" * 32, "b" * 16
CONTEXT: Header = ("traceparent", f"00-{TRACE}-{PARENT}-01".encode())
UNSAMPLED: Header = ("traceparent", f"00-{TRACE}-{PARENT}-00".encode())
LANE = LaneId("process_interactions", 3)
REACHED: dict[Stage, int] = {
    "fetched": 10,
    "taken": 20,
    "decoded": 25,
    "computed": 30,
    "produced": 35,
    "visible": 40,
    "durable": 50,
}
PASSED = [("taken", 20), ("decoded", 25), ("computed", 30), ("produced", 35), ("visible", 40)]


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(spans: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return provider


def tracing(provider: TracerProvider, ratio: float = 0.0, max_per_s: float = 1000) -> SpanTracing:
    return SpanTracing(provider.get_tracer("test"), Sampler(ratio, max_per_s), "veltrix", "dlq.traceparent")


def record(offset: int, *headers: Header) -> FakeRecord:
    return FakeRecord(b"{}", b"u", offset, timestamp=1000 + offset, partition=3, headers=headers)


def run(tracing: SpanTracing, records: Sequence[Record], failures: dict[int, Failure] | None = None) -> RunTrace:
    """One run that became one durable unit."""
    began = tracing.begin(LANE, records, 0.5)
    assert began is not None
    began.computed(1)
    began.durable(DurableUnit(records, failures or {}, REACHED, {"decode": 0.002}))
    return began


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def hexadecimal(span: ReadableSpan) -> tuple[str, str]:
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def test_a_record_that_its_producer_records_goes_on_in_its_trace(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    run(tracing(provider), [record(0), record(1, CONTEXT)])
    (span,) = named(spans, "process interactions")
    assert span.parent is not None
    assert (hexadecimal(span)[0], f"{span.parent.span_id:016x}", span.kind) == (TRACE, PARENT, SpanKind.CONSUMER)
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka", "messaging.operation.type": "process", "messaging.destination.name": "interactions",
        "messaging.destination.partition.id": "3", "messaging.consumer.group.name": "veltrix", "messaging.kafka.offset": 1,
        "messaging.message.body.size": 2, "veltrix.agent": "process_interactions",
    }  # fmt: skip


def test_record_and_micro_batch_are_linked_to_each_other_and_are_no_kin(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    began = run(tracing(provider), [record(1, CONTEXT)])
    (span,), (batch,) = named(spans, "process interactions"), named(spans, "batch interactions")
    assert [link.context.span_id for link in span.links] == [batch.context.span_id]
    assert [link.context.span_id for link in batch.links] == [span.context.span_id]
    assert batch.parent is None
    assert began.trace_id == hexadecimal(batch)[0] != TRACE
    assert (batch.attributes or {})["veltrix.decode_ms"] == 2.0


def test_events_say_when_each_stage_was_reached(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    run(tracing(provider), [record(1, CONTEXT)])
    for span in spans.get_finished_spans():
        assert [(event.name, event.timestamp) for event in span.events] == PASSED
        assert span.end_time == 50


def test_outputs_carry_the_records_span_and_those_of_others_what_came(
    provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    began = run(tracing(provider), [record(0), record(1, CONTEXT, ("tracestate", b"v=1")), record(2, UNSAMPLED)])
    (span,) = named(spans, "process interactions")
    ours = f"00-{TRACE}-{hexadecimal(span)[1]}-01".encode()
    assert began.for_outputs == {1: (("traceparent", ours), ("tracestate", b"v=1")), 2: (UNSAMPLED,)}
    assert began.for_dead_letters == {1: ours}


def test_a_failure_is_an_error_with_its_reason_and_without_its_text(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    run(
        tracing(provider),
        [record(1, CONTEXT)],
        {1: Failure("decode", "invalid_json", "secret text", exception=ValueError("secret"))},
    )
    (span,) = named(spans, "process interactions")
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "invalid_json")
    assert "secret" not in span.to_json()


def test_a_record_that_is_tried_again_goes_on_from_its_last_attempt(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    attempt: Header = ("dlq.traceparent", f"00-{'e' * 32}-{'f' * 16}-01".encode())
    began = run(tracing(provider), [record(1, UNSAMPLED, attempt)])
    (span,) = named(spans, "process interactions")
    assert hexadecimal(span)[0] == "e" * 32
    assert began.for_outputs[1][0][0] == "traceparent"


def test_a_trace_ends_with_the_last_of_its_units(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    records = [record(0, CONTEXT), record(1, CONTEXT)]
    began = tracing(provider).begin(LANE, records, 0.0)
    assert began is not None
    began.computed(2)
    assert began.durable(DurableUnit(records[:1], {}, REACHED, {})) == [(1000, TRACE)]
    assert (len(named(spans, "process interactions")), named(spans, "batch interactions")) == (1, [])
    assert began.durable(DurableUnit(records[1:], {}, REACHED, {})) == [(1001, TRACE)]
    assert (len(named(spans, "process interactions")), len(named(spans, "batch interactions"))) == (2, 1)


def test_within_the_run_the_micro_batch_is_current(provider: TracerProvider) -> None:
    began = tracing(provider, ratio=1.0).begin(LANE, [record(0)], 0.0)
    assert began is not None
    with began.current():
        assert f"{trace.get_current_span().get_span_context().trace_id:032x}" == began.trace_id
    assert not trace.get_current_span().is_recording()


def test_what_is_not_sampled_makes_no_span_and_loses_no_context(provider: TracerProvider, spans: InMemorySpanExporter) -> None:
    assert tracing(provider).begin(LANE, [record(0)], 0.0) is None
    began = tracing(provider).begin(LANE, [record(0), record(1, UNSAMPLED)], 0.0)
    assert isinstance(began, Passing)
    assert began.for_outputs == {1: (UNSAMPLED,)}
    over_budget = tracing(provider, max_per_s=0).begin(LANE, [record(1, CONTEXT)], 0.0)
    assert isinstance(over_budget, Passing)
    assert over_budget.for_outputs == {1: (CONTEXT,)}
    assert spans.get_finished_spans() == ()

"""Traces by OpenTelemetry: a span for each sampled record, one for its micro-batch, and links between the two (ADR 0014).

A record's span begins when it was fetched and ends when its state is durable; events say when it reached the stages between. Its outputs carry its context, so whoever consumes them goes on with the trace. Spans are made for sampled records
only, and for so many a second at most: to all others this costs one subtraction per micro-batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, Tracer, use_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.engine.api import Failure, Header, LaneId, Record
from app.engine.status import Stage
from app.engine.tracing import TRACEPARENT, TRACESTATE, DurableUnit, Passing, RunTrace, contexts_of
from app.telemetry.sampling import Sampler

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_STAGES: Final[tuple[Stage, ...]] = ("taken", "decoded", "enriched", "computed", "produced", "visible")


class SpanTracing:
    """Implements ``app.engine.tracing.Tracing``.

    Args:
        tracer: makes the spans.
        sampler: chooses the records.
        group: consumer group.
        attempt_header: header of a record that is tried again, with the ``traceparent`` of its last attempt.
    """

    def __init__(self, tracer: Tracer, sampler: Sampler, group: str, attempt_header: str) -> None:
        self._tracer = tracer
        self._sampler = sampler
        self._group = group
        self._attempt_header = attempt_header

    def begin(self, lane: LaneId, records: Sequence[Record], fetched_s_ago: float) -> RunTrace | None:
        """See :class:`app.engine.tracing.Tracing`."""
        contexts, parents = self._contexts([record for record in records if record.headers])
        chosen = self._sampler.choose(records, parents)
        if chosen:
            trace = SpanTrace(self._tracer, lane, records, self._group, contexts)
            for record in chosen:
                trace.record(record, parents.get(record.offset, ()), fetched_s_ago)
            return trace
        return Passing(contexts) if contexts else None

    def _contexts(self, records: Sequence[Record]) -> tuple[dict[int, tuple[Header, ...]], dict[int, tuple[Header, ...]]]:
        """Trace headers by offset: those that came from the producer, and those of whatever came last."""
        if not records:
            return {}, {}
        contexts = contexts_of(records)
        attempts = {
            record.offset: ((TRACEPARENT, value),)
            for record in records
            for name, value in record.headers
            if name == self._attempt_header
        }
        return contexts, contexts | attempts


class SpanTrace:
    """Implements ``app.engine.tracing.RunTrace`` for a run with at least one record that is recorded."""

    def __init__(
        self, tracer: Tracer, lane: LaneId, records: Sequence[Record], group: str, contexts: dict[int, tuple[Header, ...]]
    ) -> None:
        self._tracer = tracer
        self._topic = records[0].topic
        self._attributes: dict[str, str | int] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.destination.name": self._topic,
            "messaging.destination.partition.id": str(lane.partition),
            "messaging.consumer.group.name": group,
            "veltrix.agent": lane.agent,
        }
        batch = {**self._attributes, "messaging.batch.message_count": len(records), "messaging.kafka.offset": records[0].offset}
        self._batch = tracer.start_span(f"batch {self._topic}", context=Context(), attributes=batch)
        self._spans: dict[int, tuple[Record, Span]] = {}
        self._units_left = 1
        self.for_outputs = contexts
        self.for_dead_letters: dict[int, bytes] = {}
        self.trace_id = _trace_id(self._batch)

    def record(self, record: Record, parent: Sequence[Header], fetched_s_ago: float) -> None:
        """Record this one, as a child of what its trace headers name."""
        carrier = {name: (value or b"").decode("ascii", "replace") for name, value in parent}
        span = self._tracer.start_span(
            f"process {self._topic}",
            context=_PROPAGATOR.extract(carrier, Context()),
            kind=SpanKind.CONSUMER,
            attributes={
                **self._attributes,
                "messaging.kafka.offset": record.offset,
                "messaging.message.body.size": len(record.value or b""),
            },
            links=[Link(self._batch.get_span_context())],
            start_time=time.time_ns() - int(fetched_s_ago * 1e9),
        )
        self._batch.add_link(span.get_span_context())
        self._spans[record.offset] = record, span
        headers = _headers(span)
        self.for_outputs[record.offset] = headers
        self.for_dead_letters[record.offset] = headers[0][1] or b""

    def current(self) -> AbstractContextManager[object]:
        """See :class:`app.engine.tracing.RunTrace`."""
        return use_span(self._batch, record_exception=False, set_status_on_exception=False)

    def computed(self, units: int) -> None:
        """See :class:`app.engine.tracing.RunTrace`."""
        self._units_left = units

    def durable(self, unit: DurableUnit) -> Sequence[tuple[int, str]]:
        """See :class:`app.engine.tracing.RunTrace`."""
        first, last = unit.records[0].offset, unit.records[-1].offset
        recorded = [self._spans.pop(offset) for offset in sorted(self._spans) if first <= offset <= last]
        for record, span in recorded:
            _tell_outcome(span, unit.failures.get(record.offset))
            _end(span, unit)
        self._units_left -= 1
        if not self._units_left:
            self._batch.set_attributes({f"veltrix.{step}_ms": seconds * 1000 for step, seconds in unit.steps.items()})
            _end(self._batch, unit)
        return [(record.timestamp, _trace_id(span)) for record, span in recorded]


def _tell_outcome(span: Span, failure: Failure | None) -> None:
    if failure is not None:
        span.set_attributes({"error.type": failure.reason, "veltrix.disposition": failure.disposition})
        span.set_status(Status(StatusCode.ERROR, failure.reason))


def _end(span: Span, unit: DurableUnit) -> None:
    for stage in _STAGES:
        if stage in unit.reached_ns:
            span.add_event(stage, timestamp=unit.reached_ns[stage])
    span.end(unit.reached_ns["durable"])


def _headers(span: Span) -> tuple[Header, ...]:
    context = span.get_span_context()
    traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}".encode()
    state = context.trace_state.to_header().encode()
    return ((TRACEPARENT, traceparent), (TRACESTATE, state)) if state else ((TRACEPARENT, traceparent),)


def _trace_id(span: Span) -> str:
    return f"{span.get_span_context().trace_id:032x}"

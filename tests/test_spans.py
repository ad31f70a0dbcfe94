"""Calls to databases within recorded work are spans; other calls are not, and payload never is."""

from __future__ import annotations

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, Tracer, use_span

from app.spans import MAX_LINKS, LaterCall, client_span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What was recorded; the provider is this process's only during the test."""
    spans, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return spans


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Tracer:
    return trace.get_tracer("test")


def test_without_recorded_work_there_is_no_span(spans: InMemorySpanExporter) -> None:
    with client_span("redis", "MGET", size=3):
        pass
    assert spans.get_finished_spans() == ()


def test_a_call_is_a_child_of_the_work_with_the_conventions_names(spans: InMemorySpanExporter, tracer: Tracer) -> None:
    with tracer.start_as_current_span("batch") as batch, client_span("postgresql", "SELECT", "users", 7):
        pass
    call, _ = spans.get_finished_spans()
    assert (call.name, call.kind) == ("SELECT users", SpanKind.CLIENT)
    assert call.parent is not None
    assert call.parent.span_id == batch.get_span_context().span_id
    assert dict(call.attributes or {}) == {
        "db.system.name": "postgresql", "db.operation.name": "SELECT", "db.operation.batch.size": 7, "db.collection.name": "users",
    }  # fmt: skip


def test_a_call_that_fails_is_an_error_without_its_text(spans: InMemorySpanExporter, tracer: Tracer) -> None:
    work = tracer.start_as_current_span("batch", record_exception=False, set_status_on_exception=False)
    with pytest.raises(KeyError), work, client_span("redis", "MGET"):
        raise KeyError("user-42")
    call, _ = spans.get_finished_spans()
    assert (call.status.status_code, (call.attributes or {})["error.type"]) == (StatusCode.ERROR, "KeyError")
    assert "user-42" not in call.to_json()


def test_a_later_call_belongs_to_all_the_work_that_it_is_for(spans: InMemorySpanExporter, tracer: Tracer) -> None:
    later, works = LaterCall(), [tracer.start_span(name) for name in ("one", "two", "three")]
    for work in works:
        with use_span(work, end_on_exit=True):
            later.note()
    later.note()  # of no recorded work
    with later.span("redis", "EVALSHA", 5):
        pass
    call = spans.get_finished_spans()[-1]
    one, *others = [work.get_span_context().span_id for work in works]
    assert call.parent is not None
    assert call.parent.span_id == one
    assert [link.context.span_id for link in call.links] == others


def test_a_later_call_is_for_nobody_twice_and_for_a_bounded_number(spans: InMemorySpanExporter, tracer: Tracer) -> None:
    later = LaterCall()
    for _ in range(MAX_LINKS * 2):
        with tracer.start_as_current_span("work"):
            later.note()
    with later.span("redis", "EVALSHA", 1):
        pass
    assert len(spans.get_finished_spans()[-1].links) == MAX_LINKS - 1
    before = len(spans.get_finished_spans())
    with later.span("redis", "EVALSHA", 1):
        pass
    assert len(spans.get_finished_spans()) == before

"""Spans of calls to databases, for work that is recorded in a trace. Otherwise, nearly always, half a microsecond and no span.

Names and attributes follow OpenTelemetry's semantic conventions for database client calls
(https://opentelemetry.io/docs/specs/semconv/database/). Keys and values are never attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

SCOPE = "veltrix"
#: Contexts that one later call may be linked to; the others are left out.
MAX_LINKS = 32


@contextmanager
def client_span(
    system: str, operation: str, target: str = "", size: int = 1, links: tuple[SpanContext, ...] = ()
) -> Iterator[None]:
    """A child of the current span around a call, if that is recorded.

    Args:
        system: ``postgresql``, ``sqlite`` or ``redis``.
        operation, target: ``SELECT`` and the table; a Redis command and nothing.
        size: keys asked for or written.
        links: other work that the call is for.
    """
    if not trace.get_current_span().is_recording():
        yield
        return
    attributes: dict[str, str | int] = {"db.system.name": system, "db.operation.name": operation, "db.operation.batch.size": size}
    if target:
        attributes["db.collection.name"] = target
    span = trace.get_tracer(SCOPE).start_span(
        f"{operation} {target}".rstrip(), kind=SpanKind.CLIENT, attributes=attributes, links=[Link(context) for context in links]
    )
    try:
        yield
    except BaseException as exc:
        # Not its text: drivers quote parameters.
        span.set_attribute("error.type", type(exc).__qualname__)
        span.set_status(Status(StatusCode.ERROR))
        raise
    finally:
        span.end()


class LaterCall:
    """Recorded work whose share of a call is made later, together with that of others: the call is linked to all of it."""

    __slots__ = ("_contexts",)

    def __init__(self) -> None:
        self._contexts: list[SpanContext] = []

    def note(self) -> None:
        """The current work, if it is recorded, will be part of the next call."""
        span = trace.get_current_span()
        if span.is_recording() and len(self._contexts) < MAX_LINKS:
            self._contexts.append(span.get_span_context())

    @contextmanager
    def span(self, system: str, operation: str, size: int) -> Iterator[None]:
        """Around the call: a child of what was noted first, linked to the rest."""
        if not self._contexts:
            yield
            return
        (first, *others), self._contexts = self._contexts, []
        with trace.use_span(_Remembered(first)), client_span(system, operation, size=size, links=tuple(others)):
            yield


class _Remembered(trace.NonRecordingSpan):
    """A span that has ended meanwhile, as a parent."""

    def is_recording(self) -> bool:
        return True

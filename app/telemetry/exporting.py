"""Where spans go: OTLP over HTTP, from a thread of its own, in batches; never waited for by the stream."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Final

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from app.settings import Settings
from app.spans import SCOPE
from app.telemetry.sampling import Sampler
from app.telemetry.tracing import SpanTracing

log = structlog.get_logger(__name__)

#: A collector that does not answer for this long loses a batch.
EXPORT_TIMEOUT_S: Final = 3.0
#: What a stop waits for the last spans.
CLOSE_TIMEOUT_S: Final = 4.0
#: Spans that wait for the exporter; more are dropped.
MAX_WAITING_SPANS: Final = 4096


class Export:
    """OpenTelemetry's tracer provider of this process, and its end.

    The exporter also reads the standard variables ``OTEL_EXPORTER_OTLP_HEADERS``, ``..._CERTIFICATE`` and their likes.
    """

    def __init__(self, settings: Settings) -> None:
        name = settings.worker_id or f"{socket.gethostname()}:{settings.sidecar_port}"
        resource = {"service.name": settings.app_id, "service.version": settings.app_version, "service.instance.id": name}
        # Sampling was decided before a span is made (Sampler): what is made is exported.
        self.provider = TracerProvider(ALWAYS_ON, Resource.create(resource), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(f"{settings.otlp_endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        self.provider.add_span_processor(BatchSpanProcessor(exporter, MAX_WAITING_SPANS))
        self._sampler = Sampler(settings.trace_ratio, settings.trace_max_per_s)
        self._group = settings.app_id
        trace.set_tracer_provider(self.provider)

    def tracing(self, attempt_header: str) -> SpanTracing:
        """For the engine; see :class:`SpanTracing`."""
        return SpanTracing(self.provider.get_tracer(SCOPE), self._sampler, self._group, attempt_header)

    async def aclose(self) -> None:
        """Send what waits, for a few seconds at most."""
        # A thread of our own, since the loop's executor would be waited for without a limit.
        closing = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_TIMEOUT_S)
        if closing.is_alive():
            log.warning("last_spans_lost", reason=f"the collector did not take them within {CLOSE_TIMEOUT_S:.0f} s")

"""A collector of traces: takes OTLP over HTTP and keeps the spans."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span

WAIT_S = 20.0


@dataclass
class Collected:
    """What was exported so far. ``resources``: attributes of the processes that sent it."""

    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, found: Callable[[Collected], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not found(self):
            assert time.monotonic() < deadline, f"{what}; there are {sorted({span.name for span in self.spans})}"
            time.sleep(0.1)


@contextmanager
def collecting() -> Iterator[Collected]:
    """A collector on a free port."""
    collected = Collected()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            for of_process in request.resource_spans:
                collected.resources.append({one.key: one.value.string_value for one in of_process.resource.attributes})
                collected.spans += [span for scope in of_process.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of the base class
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    collected.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()

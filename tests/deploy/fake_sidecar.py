"""A worker's sidecar that says what a test wants."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from deploy.local.demo_state import WorkerRef
from deploy.local.ports import LOOPBACK


class FakeSidecar:
    """``partitions``: consumed events by partition; ``fast`` events took 0-10 ms, ``slow`` ones 10-100 ms."""

    def __init__(self, name: str) -> None:
        self.partitions: dict[int, int] = {}
        self.dead_letters: dict[str, int] = {}
        self.fast = self.slow = self.residue = 0
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.ref = WorkerRef(name, self._server.server_address[1], os.getpid())

    def metrics(self) -> str:
        lines = [f'veltrix_queued_records{{agent="process_interactions",partition="{number}"}} 0' for number in self.partitions]
        lines += [
            f'veltrix_dead_letters_total{{stage="decode",reason="{name}"}} {count}' for name, count in self.dead_letters.items()
        ]
        for bound, count in (("0.01", self.fast), ("0.1", self.fast + self.slow), ("+Inf", self.fast + self.slow)):
            lines.append(f'veltrix_event_latency_seconds_bucket{{source="interactions",stage="visible",le="{bound}"}} {count}')
        return "\n".join([*lines, 'veltrix_phase{phase="running"} 1', ""])

    def ledger(self) -> str:
        zero = {"agent": "process_interactions", "duplicates": 0, "dead_lettered": 0, "residue": self.residue}
        return json.dumps({"lanes": [zero | {"partition": p, "consumed": n, "emitted": n} for p, n in self.partitions.items()]})

    def trending(self) -> str:
        return json.dumps({"items": [{"key": "p000001", "score": 3}]})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(sidecar: FakeSidecar) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {"/metrics": sidecar.metrics, "/api/v1/ledger": sidecar.ledger}
            body = answers.get(self.path, sidecar.trending)()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002  the base class' name

    return Handler

"""One run of the demo: start the stack, send traffic, show it, stop everything in the right order."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from deploy.local.demo_screen import Screen, on_terminal, plain
from deploy.local.demo_stack import ADMIN_PORT, AT_LEAST_ONCE, KAFKA_PORT, REDIS_PORT, Stack
from deploy.local.demo_state import DemoFiles, DemoState, WorkerRef
from deploy.local.demo_traffic import Sent, Traffic
from deploy.local.demo_watch import Snapshot, Watch
from deploy.local.ports import LOOPBACK
from deploy.local.stop_signal import StopSignal

LOOK_S = 1.0
PLAIN_EVERY_S = 5.0
DRAIN_TIMEOUT_S = 60.0
LEAVE_TIMEOUT_S = 60.0

Show = Callable[[Snapshot, str], None]


class DemoError(Exception):
    """The demo cannot start, or its result is not what it promises. The message says which."""


@dataclass(frozen=True, slots=True)
class Options:
    """``rate`` in events per second; ``duration_s`` 0: until Ctrl-C; ``guarantee`` of the worker."""

    rate: float
    duration_s: float
    folder: Path
    is_native: bool
    guarantee: str = AT_LEAST_ONCE


def result(snapshot: Snapshot, sent: Sent, drain_s: float) -> dict[str, Any]:
    """The last line. ``drain_s``: from the last event sent to the last one processed."""
    counts, seconds = snapshot.counts, sent.seconds + drain_s
    return {
        "events_in": counts.consumed,
        "enriched": counts.emitted,
        "duplicates": counts.duplicates,
        "dead_letters": counts.dead_lettered,
        "ledger_residue": counts.residue,
        "p50_ms": snapshot.p50_ms,
        "p99_ms": snapshot.p99_ms,
        "events_per_second": round(counts.consumed / seconds, 1) if seconds else 0.0,
    }


class Demo:
    """One run: ``run`` gives the result; whatever happens, nothing is left running when it returns."""

    def __init__(self, options: Options, stack: Stack, files: DemoFiles, stop: StopSignal, console: Console) -> None:
        self._options, self._stack, self._files, self._stop, self._console = options, stack, files, stop, console
        self._watch = Watch()
        self._began = time.monotonic()
        self._traffic: Traffic | None = None

    def run(self) -> dict[str, Any] | None:
        """The result, None when it was stopped before traffic began.

        Raises:
            ProcessError and others of EXPECTED: a part failed.
            DemoError: events were lost or not processed in time.
        """
        try:
            self._stack.start(lambda step: self._console.print(f"[green]ok[/] {step}", highlight=False))
            if self._stop.is_set():
                return None
            self._files.write(DemoState(os.getpid(), dict(self._stack.env())))
            return self._with_traffic()
        finally:
            self._files.forget()
            if self._traffic is not None:
                self._traffic.kill()
            self._wait_for_others()
            self._stack.close()

    def _with_traffic(self) -> dict[str, Any]:
        self._traffic = Traffic(self._files.folder, self._stack.env(), self._options.rate, self._options.duration_s)
        self._traffic.start()
        self._began = time.monotonic()
        if on_terminal(self._console):
            screen = self._screen()
            with Live(screen.render(self._look()), console=self._console, auto_refresh=False) as live:
                answer = self._play(
                    self._traffic, lambda snapshot, status: live.update(screen.render(snapshot, status), refresh=True)
                )
        else:
            answer = self._play(self._traffic, _PlainLines(self._console))
        self._files.forget()
        self._wait_for_others()
        self._stack.stop_worker()
        return answer

    def _play(self, traffic: Traffic, show: Show) -> dict[str, Any]:
        while traffic.is_running() and not self._stop.wait(LOOK_S):
            said = self._stack.check()
            show(self._look(), said)
        show(self._look(), "stopping: the last events are processed ...")
        sent = traffic.finish()
        ended = time.monotonic()
        snapshot = self._look()
        while snapshot.counts.consumed < sent.records and time.monotonic() < ended + DRAIN_TIMEOUT_S:
            time.sleep(0.2)
            self._stack.check()
            snapshot = self._look()
        show(snapshot, "stopped")
        return _checked(result(snapshot, sent, time.monotonic() - ended), sent)

    def _look(self) -> Snapshot:
        return self._watch.look(self._workers(), time.monotonic() - self._began)

    def _workers(self) -> list[WorkerRef]:
        return [self._stack.worker(), *self._files.joined()]

    def _wait_for_others(self) -> None:
        """Workers of ``make worker`` end by themselves now; they need Kafka for a clean stop, so it waits."""
        deadline = time.monotonic() + LEAVE_TIMEOUT_S
        while (left := self._files.joined()) and time.monotonic() < deadline:
            time.sleep(0.1)
        for worker in left:
            print(f"demo: {worker.name} (pid {worker.pid}) does not end; stop it by hand", file=sys.stderr)

    def _screen(self) -> Screen:
        base, env = f"http://{LOOPBACK}:{self._stack.worker().port}", self._stack.env()
        urls = {
            "API": f"{base}/docs",
            "a user's state": f"{base}/api/v1/lookups/users/user-000000",
            "dead letters": f"{base}/api/v1/dlq/records",
            "health": f"{base}/readyz",
            "topology": f"{base}/topology",
            "metrics": f"{base}/metrics",
            **self._stack.pages(),
            "a second worker": "make worker N=2",
            "kill it, and count": "pkill -9 -f 'app.main worker'",
            "the output": ".venv/bin/veltrix tail interactions-enriched",
        }
        usual = {AT_LEAST_ONCE, f"{LOOPBACK}:{KAFKA_PORT}", f"redis://{LOOPBACK}:{REDIS_PORT}/0", f"http://{LOOPBACK}:{ADMIN_PORT}"}
        exports = [f"export {name}={value}" for name, value in env.items() if value not in usual]
        seconds = self._options.duration_s
        ends = (
            f"{self._options.rate:g} events/s, stops after {seconds:g} s"
            if seconds
            else f"{self._options.rate:g} events/s, Ctrl-C stops"
        )
        return Screen(self._options.rate, ends, urls, exports)


class _PlainLines:
    """Progress where nobody watches a screen."""

    def __init__(self, console: Console) -> None:
        self._console, self._next = console, 0.0

    def __call__(self, snapshot: Snapshot, status: str) -> None:
        if status or snapshot.seconds >= self._next:
            self._next = snapshot.seconds + PLAIN_EVERY_S
            print(plain(snapshot) + (f" [{status}]" if status else ""), file=self._console.file, flush=True)


def _checked(answer: dict[str, Any], sent: Sent) -> dict[str, Any]:
    if answer["events_in"] < sent.records:
        raise DemoError(
            f"{sent.records - answer['events_in']} of {sent.records} events were not processed within {DRAIN_TIMEOUT_S:g} s"
        )
    if answer["ledger_residue"] != 0:
        raise DemoError(
            f"{answer['ledger_residue']} events have no outcome: this must never happen, please report it with var/demo/worker"
        )
    return answer

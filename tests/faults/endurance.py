"""What a worker must not do while something under it is broken: die, be restarted, or grow."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

import psutil

from app.engine.guard import EXIT_FATAL
from deploy.local.process import tail
from deploy.local.worker_process import WorkerProcess
from tests.faults.harness import Scenario

SAMPLE_S = 0.1
MIB = 1024 * 1024
RSS_BOUND_MIB = 450
"""Twice what a worker needs when it drains a backlog on four partitions (docs/benchmarks.md)."""


class Endurance:
    """``with Endurance(worker):`` around a fault; at the end the same process must run and must have stayed small.

    ``may_exit``: for a fault that is allowed to end the worker; then only the memory is bounded.

    Attributes:
        peak_mib: largest resident set so far.
    """

    def __init__(self, worker: WorkerProcess, bound_mib: float = RSS_BOUND_MIB, *, may_exit: bool = False) -> None:
        self.peak_mib = 0.0
        self._worker = worker
        self._bound_mib = bound_mib
        self._may_exit = may_exit
        self._pid = worker.pid
        self._rebalances = rebalances(worker)
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="rss", daemon=True)

    def new_rebalances(self) -> int:
        """Completed since the start of the block."""
        return rebalances(self._worker) - self._rebalances

    def __enter__(self) -> Self:
        self._sampler.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._sampler.join()
        print(f"{self._worker.name}: peak RSS {self.peak_mib:.0f} MiB")  # noqa: T201 - pytest shows it beside a failure
        if kind is None:
            self._require_same_process()
            assert self.peak_mib < self._bound_mib, f"the worker grew to {self.peak_mib:.0f} MiB"

    def _require_same_process(self) -> None:
        status = self._worker.exit_status()
        if not self._may_exit:
            assert status is None, f"the worker ended with status {status}. Last lines of its log:\n{tail(self._worker.log, 8)}"
            assert self._worker.pid == self._pid, "the worker was restarted"

    def _sample(self) -> None:
        process = psutil.Process(self._pid)
        while not self._ended.wait(SAMPLE_S):
            try:
                self.peak_mib = max(self.peak_mib, process.memory_info().rss / MIB)
            except psutil.NoSuchProcess:
                return


def restart_if_it_gave_up(run: Scenario, name: str = "one", timeout_s: float = 10.0) -> None:
    """As a supervisor would, after an exit that the fault's promise allows; waits ``timeout_s`` for it."""
    status = run.workers[name].wait(timeout_s)
    if status is not None:
        assert status == EXIT_FATAL, f"exit status {status}"
        run.exit_statuses.append(status)
        run.restart(name)


def rebalances(worker: WorkerProcess) -> int:
    """Completed rebalances that this worker counts."""
    return int(metric(worker, "veltrix_rebalances_total"))


def metric(worker: WorkerProcess, name: str) -> float:
    """Sum of one metric over its labels; a missing one fails the test."""
    _, body = worker.get("/metrics")
    values = [float(line.rpartition(" ")[2]) for line in body.decode().splitlines() if line.split("{")[0].split(" ")[0] == name]
    assert values, f"the worker exposes no {name}"
    return sum(values)

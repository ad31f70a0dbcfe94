"""``make worker N=2``: one more worker beside a running demo, until Ctrl-C or the demo's end.

Run as ``python -m deploy.local.worker --number 2``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.local.demo_state import FOLDER, DemoFiles, DemoState, WorkerRef
from deploy.local.ports import NoFreePortError, PortTakenError
from deploy.local.process import ProcessError
from deploy.local.stop_signal import StopSignal, stop_on_signals
from deploy.local.worker_process import WorkerProcess

LOOK_S = 0.2
READY_TIMEOUT_S = 90.0


class WorkerRefusedError(Exception):
    """There is no demo to join, or that worker runs already. The message says what to do."""


def run(number: int, files: DemoFiles, stop: StopSignal) -> None:
    """Join the demo, and leave it cleanly.

    Raises:
        WorkerRefusedError: see there.
        ProcessError: the worker did not start, ended by itself or did not stop cleanly.
    """
    name = f"worker-{number}"
    state = _joinable(name, files)
    worker = WorkerProcess(files.folder / name, state.env, name)
    worker.start()
    files.join(WorkerRef(name, worker.port, os.getpid()))
    print(f"{name} starts: {worker.url}, log in {worker.log}", flush=True)
    try:
        worker.wait_ready(READY_TIMEOUT_S, lambda: stop.is_set() or files.read() is None)
        was_ready = worker.is_ready()
        if was_ready:
            print(f"{name} is ready; Ctrl-C stops it", flush=True)
        while not stop.wait(LOOK_S) and files.read() is not None:
            if not worker.is_running():
                raise ProcessError(name, "ended by itself", worker.log, worker.exit_status())
        print(f"{name} stops", flush=True)
        if (status := worker.terminate()) != 0 and was_ready:  # half started, it has nothing to finish
            raise ProcessError(name, "did not stop cleanly", worker.log, status)
    finally:
        worker.kill9()
        files.leave(name)


def _joinable(name: str, files: DemoFiles) -> DemoState:
    state = files.read()
    if state is None:
        raise WorkerRefusedError("no demo runs: start one with `make demo`, in another terminal")
    if name == "worker-1" or any(worker.name == name for worker in files.joined()):
        raise WorkerRefusedError(f"{name} runs already: choose another number, make worker N=3")
    return state


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 after a clean stop, 1 when the worker failed, 2 when there was nothing to join."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.worker", description=__doc__)
    parser.add_argument("--number", type=int, default=2, help="2 or more (default 2)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the demo (default var/demo)")
    given = parser.parse_args(arguments)
    try:
        with stop_on_signals() as stop:
            run(given.number, DemoFiles(given.folder), stop)
    except WorkerRefusedError as exc:
        print(f"worker: {exc}", file=sys.stderr)
        return 2
    except (ProcessError, NoFreePortError, PortTakenError) as exc:
        print(f"worker: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

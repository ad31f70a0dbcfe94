"""The demo looks after its worker as an orchestrator does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deploy.local.demo_stack import NativeStack
from deploy.local.process import ProcessError


class FakeWorker:
    """A worker that ends when a test says so."""

    name, port = "worker-1", 1

    def __init__(self, log: Path) -> None:
        self.log, self.status, self.starts, self.ready = log, cast("int | None", None), 0, True

    def exit_status(self) -> int | None:
        return self.status

    def is_ready(self) -> bool:
        return self.ready

    def start(self) -> None:
        self.starts, self.status, self.ready = self.starts + 1, None, False


@pytest.fixture
def worker(tmp_path: Path) -> FakeWorker:
    return FakeWorker(tmp_path / "worker.log")


@pytest.fixture
def stack(tmp_path: Path, worker: FakeWorker) -> NativeStack:
    """Its services run, and nothing of it was started."""
    stack: Any = NativeStack(tmp_path, lambda: False)
    stack._worker, stack._prometheus = worker, None
    stack._kafka = stack._redis = stack._admin = SimpleNamespace(is_running=lambda: True)
    assert stack.check() == ""
    return cast("NativeStack", stack)


@pytest.mark.parametrize(("status", "how"), [(-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV"), (70, "ended by itself (70)")])
def test_a_worker_that_died_is_started_again_and_spoken_of_until_it_is_ready(
    stack: NativeStack, worker: FakeWorker, status: int, how: str
) -> None:
    worker.status = status
    said = f"worker-1 was {how} and is started again"
    assert (stack.check(), stack.check(), worker.starts) == (said, said, 1)
    worker.ready = True
    assert stack.check() == ""


@pytest.mark.parametrize("status", [0, 1, 78])
def test_a_worker_that_must_not_run_ends_the_demo(stack: NativeStack, worker: FakeWorker, status: int) -> None:
    worker.status = status
    with pytest.raises(ProcessError, match=rf"worker-1 ended by itself \(exit status {status}\)"):
        stack.check()
    assert worker.starts == 0


@pytest.mark.parametrize("status", [70, -11])
def test_one_that_dies_before_it_is_ready_is_not_started_for_ever(stack: NativeStack, worker: FakeWorker, status: int) -> None:
    worker.status = status
    stack.check()
    worker.status = status
    with pytest.raises(ProcessError):
        stack.check()
    assert worker.starts == 1


def test_one_that_somebody_kills_again_before_it_is_ready_is(stack: NativeStack, worker: FakeWorker) -> None:
    for _ in range(3):
        worker.status = -9
        stack.check()
    assert worker.starts == 3

"""How a demo and its further workers find and leave each other, and when Docker counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import worker
from deploy.local.demo_docker import docker_answers
from deploy.local.demo_state import DemoFiles, DemoState, WorkerRef, is_alive
from deploy.local.stop_signal import StopSignal

pytestmark = pytest.mark.process


@pytest.fixture
def dead_pid() -> int:
    """Of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_running_demo_is_found_with_its_settings(tmp_path: Path) -> None:
    state = DemoState(os.getpid(), {"VELTRIX_KAFKA_BOOTSTRAP": "127.0.0.1:9092"})

    DemoFiles(tmp_path).write(state)

    assert DemoFiles(tmp_path).read() == state


def test_a_demo_that_died_is_none(tmp_path: Path, dead_pid: int) -> None:
    DemoFiles(tmp_path).write(DemoState(dead_pid, {}))

    assert not is_alive(dead_pid)
    assert DemoFiles(tmp_path).read() is None


def test_a_process_that_nobody_collected_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # ends with the process
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

        assert not is_alive(process.pid)


def test_a_demo_that_stops_is_none(tmp_path: Path) -> None:
    files = DemoFiles(tmp_path)
    files.write(DemoState(os.getpid(), {}))

    files.forget()
    files.forget()

    assert files.read() is None


def test_workers_come_and_go(tmp_path: Path, dead_pid: int) -> None:
    files = DemoFiles(tmp_path)
    two, three = WorkerRef("worker-2", 1, os.getpid()), WorkerRef("worker-3", 2, os.getpid())
    files.join(three)
    files.join(two)
    files.join(WorkerRef("worker-9", 3, dead_pid))
    assert files.joined() == [two, three]

    files.leave("worker-2")
    files.leave("worker-2")

    assert files.joined() == [three]


def test_a_worker_without_a_demo_is_refused(tmp_path: Path) -> None:
    with pytest.raises(worker.WorkerRefusedError, match="no demo runs: start one with `make demo`"):
        worker.run(2, DemoFiles(tmp_path), StopSignal())


@pytest.mark.parametrize("number", [1, 2])
def test_a_number_that_is_taken_is_refused(number: int, tmp_path: Path) -> None:
    files = DemoFiles(tmp_path)
    files.write(DemoState(os.getpid(), {}))
    files.join(WorkerRef("worker-2", 1, os.getpid()))

    with pytest.raises(worker.WorkerRefusedError, match=f"worker-{number} runs already"):
        worker.run(number, files, StopSignal())


def test_the_command_says_why_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(["--number", "2", "--folder", str(tmp_path)]) == 2
    assert "no demo runs" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "answers"), [("exit 0", True), ("exit 1", False), ("exec sleep 30", False), (None, False)])
def test_docker_counts_only_when_its_engine_answers_in_time(
    code: str | None, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is not None:
        (tmp_path / "docker").write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{code}\n")
        (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("deploy.local.demo_docker.ANSWER_TIMEOUT_S", 0.5)

    assert docker_answers() is answers

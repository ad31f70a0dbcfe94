"""``make demo`` as a user runs it: real services, a second worker that comes and is killed, Ctrl-C, one JSON line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.local.demo_state import DemoFiles

ROOT = Path(__file__).parents[2]
RATE = 200
KEYS = ["events_in", "enriched", "duplicates", "dead_letters", "ledger_residue", "p50_ms", "p99_ms", "events_per_second"]


@contextmanager
def program(module: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A module of deploy.local on a demo folder, its output in ``<module>.out``; killed in the end."""
    argv = [sys.executable, "-m", f"deploy.local.{module}", "--folder", str(folder), *words]
    with (
        (folder.parent / f"{module}.out").open("w") as out,
        subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out, text=True) as running,
    ):
        try:
            yield running
        finally:
            running.kill()


def wait(what: str, condition: Callable[[], bool], output: Path, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {timeout_s:g} s:\n{output.read_text()}")
        time.sleep(0.1)


def first_worker(demo: subprocess.Popen[str]) -> psutil.Process:
    """The worker that the demo itself has started."""
    (found,) = [child for child in psutil.Process(demo.pid).children(recursive=True) if "app.main" in child.cmdline()]
    return found


def left_behind(folder: Path) -> list[str]:
    """Command lines of processes that belong to this demo."""
    lines = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline", "cwd"])]
    return [line for line in lines if str(folder) in line]


def test_a_demo_survives_a_killed_worker_and_stops_cleanly(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo_out, worker_out = tmp_path / "demo.out", tmp_path / "worker.out"
    files = DemoFiles(folder)

    with program("demo", folder, "--native", "--rate", str(RATE)) as demo:
        wait("traffic", lambda: files.read() is not None or demo.poll() is not None, demo_out)
        with program("worker", folder, "--number", "2") as worker:
            wait("two owners", lambda: "worker-2=5-9" in demo_out.read_text() or "worker-2=0-4" in demo_out.read_text(), worker_out)
            worker.kill()  # takes its worker with it, as kill -9 would
            wait("one owner again", lambda: demo_out.read_text().splitlines()[-1].endswith("worker-1=0-9"), demo_out)
        demo.send_signal(signal.SIGINT)
        status = demo.wait(60)

    output = demo_out.read_text().splitlines()
    assert status == 0, "\n".join(output)
    result = json.loads(output[-1])
    assert list(result) == KEYS
    assert result["ledger_residue"] == 0
    assert result["events_in"] == result["enriched"] + result["duplicates"] + result["dead_letters"] > 0
    assert result["p50_ms"] <= result["p99_ms"]
    assert left_behind(folder) == []


def test_a_demo_starts_a_killed_worker_again_loses_nothing_and_ends_after_its_duration_with_all_workers(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo_out, worker_out = tmp_path / "demo.out", tmp_path / "worker.out"
    files = DemoFiles(folder)

    with program("demo", folder, "--native", "--rate", str(RATE), "--duration", "15") as demo:
        wait("traffic", lambda: files.read() is not None or demo.poll() is not None, demo_out)
        with program("worker", folder, "--number", "2") as worker:
            wait("two workers", lambda: "worker-2=" in demo_out.read_text(), worker_out)
            first_worker(demo).kill()
            wait("word of it", lambda: "was killed by SIGKILL and is started again" in demo_out.read_text(), demo_out)
            statuses = demo.wait(120), worker.wait(60)

    output = demo_out.read_text().splitlines()
    assert statuses == (0, 0), "\n".join([*output, *worker_out.read_text().splitlines()])
    result = json.loads(output[-1])
    assert (result["events_in"], result["ledger_residue"]) == (15 * RATE, 0)
    assert left_behind(folder) == []

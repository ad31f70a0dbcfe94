"""One run of the demo, with a stack that is not there: order of stops, what counts as failure, what is printed last."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from deploy.local import demo, demo_run, demo_traffic
from deploy.local.demo_run import Demo, DemoError, Options
from deploy.local.demo_stack import Say
from deploy.local.demo_state import DemoFiles, DemoState, WorkerRef
from deploy.local.process import ProcessError
from deploy.local.stop_signal import StopSignal
from tests.deploy.fake_sidecar import FakeSidecar

pytestmark = pytest.mark.process

SENDS_60 = "print('noise'); print('{\"sent\": 60, \"seconds\": 2.0}')"
SENDS_UNTIL_TOLD = (
    "import signal, sys, time\n"
    'def stop(*_): print(\'{"sent": 60, "seconds": 2.0}\'); sys.exit(0)\n'
    "signal.signal(signal.SIGTERM, stop); print('up', flush=True); time.sleep(60)"
)


class FakeStack:
    """Records what is done to it."""

    def __init__(self, sidecar: FakeSidecar, files: DemoFiles, log: Path) -> None:
        self.steps: list[str] = []
        self.sidecar, self.files, self.log = sidecar, files, log
        self.is_broken = False
        self.said = ""

    def start(self, say: Say) -> None:
        say("everything (0.0 s)")
        self.steps.append("start")

    def env(self) -> Mapping[str, str]:
        return {"VELTRIX_KAFKA_BOOTSTRAP": "127.0.0.1:1"}

    def worker(self) -> WorkerRef:
        return self.sidecar.ref

    def pages(self) -> Mapping[str, str]:
        return {}

    def check(self) -> str:
        if self.is_broken:
            raise ProcessError("worker-1", "ended by itself", self.log, 1)
        return self.said

    def stop_worker(self) -> None:
        self.steps.append("stop worker" if self.files.read() is None else "stop worker before the others")

    def close(self) -> None:
        self.steps.append("close")


class Run:
    """A demo whose generator is a line of Python."""

    def __init__(self, sidecar: FakeSidecar, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.files, self.output, self.stop = DemoFiles(folder), io.StringIO(), StopSignal()
        self.stack = FakeStack(sidecar, self.files, folder / "worker.log")
        self._monkeypatch = monkeypatch
        monkeypatch.setattr(demo_run, "LOOK_S", 0.05)

    def play(self, code: str) -> dict[str, object] | None:
        self._monkeypatch.setattr(demo_traffic, "veltrix", lambda: [sys.executable, "-c", code])
        console = Console(file=self.output)
        return Demo(Options(30, 2, self.files.folder, is_native=True), self.stack, self.files, self.stop, console).run()


@pytest.fixture
def run(fake: Callable[[str], FakeSidecar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    sidecar = fake("worker-1")
    sidecar.partitions, sidecar.fast = {0: 40, 1: 20}, 60
    return Run(sidecar, tmp_path, monkeypatch)


def test_the_result_has_every_promised_number(run: Run) -> None:
    answer = run.play(SENDS_60)

    assert answer is not None
    speed = answer.pop("events_per_second")
    assert answer == {
        "events_in": 60,
        "enriched": 60,
        "duplicates": 0,
        "dead_letters": 0,
        "ledger_residue": 0,
        "p50_ms": 5.0,
        "p99_ms": 9.9,
    }
    assert isinstance(speed, float)
    assert 25 < speed <= 30


def test_the_worker_stops_before_what_it_needs(run: Run) -> None:
    run.play(SENDS_60)

    assert run.stack.steps == ["start", "stop worker", "close"]


def test_the_result_waits_for_the_last_event(run: Run) -> None:
    run.stack.sidecar.partitions[1] = 0
    timer = threading.Timer(0.5, lambda: run.stack.sidecar.partitions.update({1: 20}))
    timer.start()

    answer = run.play(SENDS_60)

    timer.join()
    assert answer is not None
    assert answer["events_in"] == 60


def test_events_that_never_come_out_are_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_run, "DRAIN_TIMEOUT_S", 0.3)
    run.stack.sidecar.partitions[1] = 17

    with pytest.raises(DemoError, match="3 of 60 events were not processed"):
        run.play(SENDS_60)

    assert run.stack.steps[-1] == "close"


def test_an_event_without_an_outcome_is_a_failure(run: Run) -> None:
    run.stack.sidecar.residue = 1

    with pytest.raises(DemoError, match="2 events have no outcome"):
        run.play(SENDS_60)


def test_a_dead_worker_ends_the_demo_with_its_log(run: Run) -> None:
    run.stack.log.write_text("no memory left")
    run.stack.is_broken = True

    with pytest.raises(ProcessError, match=r"worker-1 ended by itself \(exit status 1\)[\s\S]*no memory left"):
        run.play(SENDS_UNTIL_TOLD)

    assert run.stack.steps == ["start", "close"]


def test_what_became_of_a_worker_is_said(run: Run) -> None:
    run.stack.said = "worker-1 was killed by SIGKILL and is started again"
    run.play(SENDS_60)
    assert f"[{run.stack.said}]" in run.output.getvalue()


def test_a_failing_generator_ends_the_demo_with_its_words(run: Run) -> None:
    with pytest.raises(ProcessError, match=r"veltrix generate failed \(exit status 1\)[\s\S]*no broker"):
        run.play("import sys; print('no broker', file=sys.stderr); sys.exit(1)")

    assert run.stack.steps[-1] == "close"


def test_an_interrupt_stops_the_traffic_first_and_still_gives_a_result(run: Run) -> None:
    timer = threading.Timer(1.0, lambda: run.stop.handle(2, None))
    timer.start()

    answer = run.play(SENDS_UNTIL_TOLD)

    timer.join()
    assert answer is not None
    assert answer["events_in"] == 60
    assert run.stack.steps == ["start", "stop worker", "close"]


def test_an_interrupt_while_it_starts_gives_no_result_and_leaves_nothing(run: Run) -> None:
    run.stop.handle(2, None)

    assert run.play(SENDS_60) is None
    assert run.stack.steps == ["start", "close"]


def test_a_second_interrupt_interrupts_at_once() -> None:
    stop = StopSignal()
    stop.handle(2, None)

    with pytest.raises(KeyboardInterrupt):
        stop.handle(2, None)


def test_other_workers_may_join_only_while_traffic_runs(run: Run) -> None:
    seen: list[DemoState | None] = []

    def look_and_stop() -> None:
        seen.append(run.files.read())
        run.stop.handle(2, None)

    timer = threading.Timer(0.7, look_and_stop)
    timer.start()

    run.play(SENDS_UNTIL_TOLD)

    timer.join()
    assert seen == [DemoState(os.getpid(), {"VELTRIX_KAFKA_BOOTSTRAP": "127.0.0.1:1"})]
    assert run.files.read() is None


def test_without_a_terminal_progress_is_plain_lines(run: Run) -> None:
    run.play(SENDS_60)

    lines = run.output.getvalue().splitlines()
    assert lines[0] == "ok everything (0.0 s)"
    assert "60 in, 60 unique" in lines[1]
    assert "[stopped]" in lines[-1]
    assert "\x1b" not in run.output.getvalue()


# -- the command --------------------------------------------------------------------------------------------------
@pytest.fixture
def command(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """``make demo``, natively, with the stack and the generator of ``run``; its exit status."""
    monkeypatch.setattr(demo_traffic, "veltrix", lambda: [sys.executable, "-c", SENDS_60])
    monkeypatch.setattr(demo, "docker_answers", lambda: False)
    monkeypatch.setattr(demo, "NativeStack", lambda *_: run.stack)
    return lambda: demo.main(["--duration", "2", "--folder", str(run.files.folder)])


def test_the_last_line_of_output_is_the_result(command: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["events_in"] == 60


def test_settings_of_the_shell_that_are_left_out_are_named(
    run: Run, command: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VELTRIX_PARTITIONS", "4")
    monkeypatch.setenv("VELTRIX_KAFKA_BOOTSTRAP", run.stack.env()["VELTRIX_KAFKA_BOOTSTRAP"])

    assert command() == 0
    assert "these settings of your shell are left out: VELTRIX_PARTITIONS\n" in capsys.readouterr().err


def test_a_second_demo_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.files.write(DemoState(os.getpid(), {}))

    assert demo.main(["--folder", str(run.files.folder)]) == 1
    assert "a demo is running already" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rate", "0"], ["--duration", "-1"], ["--speed", "9"], ["--guarantee", "at_most_once"]])
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        demo.options_of(arguments)

    assert caught.value.code == 2

"""Laws of child processes: always stopped, never orphaned, their log shown when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from deploy.local.process import Command, ManagedProcess, ProcessError, own, tail

pytestmark = pytest.mark.process

IGNORES_TERM = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
HAS_A_CHILD = "import subprocess,sys; c=subprocess.Popen(['sleep','60']); print(c.pid, flush=True); c.wait()"


def gone(pid: int) -> bool:
    """Ended; a zombie that its new parent has not collected yet has ended, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., ManagedProcess]]:
    """Makes processes that run a line of Python; all are killed in the end."""
    made: list[ManagedProcess] = []

    def make(
        code: str, *, user: str | None = None, stdout: Path | None = None, env: dict[str, str] | None = None
    ) -> ManagedProcess:
        argv = ["/bin/sh", "-c", code] if user else [sys.executable, "-c", code]
        process = ManagedProcess(Command("probe", argv, tmp_path / "probe.log", user=user, stdout=stdout, env=env))
        made.append(process)
        return process

    yield make
    for process in made:
        process.kill()


def test_a_stop_ends_the_process_with_sigterm(run: Callable[..., ManagedProcess]) -> None:
    process = run("import time; print('up', flush=True); time.sleep(60)")
    process.start()
    process.wait_until(lambda: "up" in tail(process.command.log), 10)

    assert process.stop() == -signal.SIGTERM
    assert gone(process.pid)


def test_a_process_that_ignores_sigterm_is_killed(run: Callable[..., ManagedProcess]) -> None:
    process = run(IGNORES_TERM)
    process.start()
    process.wait_until(lambda: "up" in tail(process.command.log), 10)

    assert process.stop(timeout_s=0.2) == -signal.SIGKILL
    assert gone(process.pid)


def test_a_kill_leaves_no_child_of_the_process(run: Callable[..., ManagedProcess], tmp_path: Path) -> None:
    process = run(HAS_A_CHILD, stdout=tmp_path / "out")
    process.start()
    process.wait_until(lambda: tail(tmp_path / "out").strip().isdigit(), 10)
    child = int(tail(tmp_path / "out"))
    assert not gone(child)

    process.kill()

    assert eventually(lambda: gone(child))


def test_a_process_dies_with_its_starter(tmp_path: Path) -> None:
    code = (
        "import sys,time; from pathlib import Path; from deploy.local.process import Command, ManagedProcess\n"
        "p = ManagedProcess(Command('probe', ['sleep', '60'], Path(sys.argv[1])))\n"
        "p.start(); print(p.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log")], stdout=subprocess.PIPE, cwd=Path.cwd()) as starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        assert eventually(lambda: psutil.Process(child).name() == "sleep")

        starter.kill()
        starter.wait()

        assert eventually(lambda: gone(child))


def test_a_process_that_ends_while_it_starts_shows_its_status_and_log(run: Callable[..., ManagedProcess]) -> None:
    process = run("import sys; print('no such disk', file=sys.stderr); sys.exit(3)")
    process.start()

    with pytest.raises(ProcessError, match=r"probe ended while it started \(exit status 3\)[\s\S]*no such disk") as caught:
        process.wait_until(lambda: False, 10)

    assert (caught.value.name, caught.value.status) == ("probe", 3)


def test_a_process_that_is_never_ready_is_killed(run: Callable[..., ManagedProcess]) -> None:
    process = run("import time; print('thinking', flush=True); time.sleep(60)")
    process.start()

    with pytest.raises(ProcessError, match=r"did not become ready within 0\.5 s[\s\S]*"):
        process.wait_until(lambda: False, 0.5)

    assert gone(process.pid)


def test_a_running_process_is_not_started_twice(run: Callable[..., ManagedProcess]) -> None:
    process = run("import time; time.sleep(60)")
    process.start()
    first = process.pid

    with pytest.raises(ProcessError, match="is running already"):
        process.start()

    assert process.pid == first


def test_a_stopped_process_starts_again(run: Callable[..., ManagedProcess]) -> None:
    process = run("import time; time.sleep(60)")
    process.start()
    first = process.pid
    process.stop()

    process.start()

    assert process.is_running()
    assert process.pid != first


def test_a_process_that_never_started_has_no_pid_and_stops_at_once(run: Callable[..., ManagedProcess]) -> None:
    process = run("pass")

    assert (process.stop(), process.kill(), process.exit_status(), process.is_running()) == (None, None, None, False)
    with pytest.raises(ProcessError, match="is not started"):
        _ = process.pid


def test_a_terminals_interrupt_does_not_reach_it(run: Callable[..., ManagedProcess]) -> None:
    process = run("import os; print(os.getsid(0), os.getpid(), flush=True)")
    process.start()
    process.wait(10)

    session, pid = tail(process.command.log).split()

    assert session == pid != str(os.getsid(0))


def test_the_child_gets_exactly_the_given_environment(run: Callable[..., ManagedProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISE", "1")
    process = run("import os; print(os.environ.get('NOISE'), os.environ['WANTED'])", env={"WANTED": "2"})
    process.start()
    process.wait(10)

    assert tail(process.command.log).split() == ["None", "2"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_becomes_the_wanted_user_for_good_and_still_dies_with_us(run: Callable[..., ManagedProcess]) -> None:
    process = run("id -u; id -G; grep PPid /proc/self/status; sleep 60", user="nobody")
    process.start()
    process.wait_until(lambda: "PPid" in tail(process.command.log), 10)

    user, groups = tail(process.command.log).split("\n")[:2]

    assert user.strip() == groups.strip() == "65534"
    assert psutil.Process(process.pid).uids().effective == 65534
    assert process.stop() == -signal.SIGTERM


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_directory_is_handed_to_the_user_that_will_write_it(tmp_path: Path) -> None:
    own(tmp_path / "a" / "b", "nobody")

    assert (tmp_path / "a" / "b").stat().st_uid == 65534


def test_the_end_of_a_long_log_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"\n".join(b"line %d" % n for n in range(100)) + b"\n\xff\n")

    assert tail(log, 2) == "  line 99\n  \N{REPLACEMENT CHARACTER}"
    assert tail(tmp_path / "none") == "  (no log)"

"""One child process that is started, watched and always stopped: Kafka, Redis, a worker, a generator.

A child runs in a session of its own (a terminal's Ctrl-C does not reach it, its starter decides the order of stops),
writes into a log file, and is killed by the kernel when its starter dies.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.05
PAUSE_S = 2.0
KILL_TIMEOUT_S = 10.0
TAIL_LINES = 25


class ProcessError(Exception):
    """A service did not start or ended by itself. Carries its name, exit status and the end of its log."""

    def __init__(self, name: str, what: str, log: Path, status: int | None = None) -> None:
        self.name, self.what, self.log, self.status = name, what, log, status
        ended = "" if status is None else f" (exit status {status})"
        super().__init__(f"{name} {what}{ended}. Last lines of {log}:\n{tail(log)}")


@dataclass(frozen=True, slots=True)
class Command:
    """What to run. ``user`` takes effect only for root: some servers refuse to run as root."""

    name: str
    argv: Sequence[str]
    log: Path
    cwd: Path | None = None
    env: Mapping[str, str] | None = None
    user: str | None = None
    stdout: Path | None = None
    """File of its standard output alone; by default the log gets it."""


class ManagedProcess:
    """At most one running child of ``command`` at a time. Not safe to share between threads."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the child writes into."""
        return self.command.log

    @property
    def pid(self) -> int:
        """Process id of the running child.

        Raises:
            ProcessError: it was never started.
        """
        if self._popen is None:
            raise ProcessError(self.command.name, "is not started", self.command.log)
        return self._popen.pid

    def exit_status(self) -> int | None:
        """None while it runs or was never started; negative: the signal that ended it."""
        return None if self._popen is None else self._popen.poll()

    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it and return at once; a second call while it runs is a mistake.

        Raises:
            ProcessError: it is running already.
        """
        if self.is_running():
            raise ProcessError(self.command.name, "is running already", self.command.log)
        command = self.command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        guarded = [sys.executable, "-I", "-S", str(GUARD), str(os.getpid()), _user_for(command.user), *command.argv]
        with command.log.open("ab") as log, (command.stdout or command.log).open("ab") as out:
            self._popen = subprocess.Popen(  # noqa: S603  the command comes from our own code
                guarded,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                cwd=command.cwd,
                env=None if command.env is None else dict(command.env),
                start_new_session=True,
            )

    def wait_until(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll ``is_ready`` until it is true.

        Raises:
            ProcessError: the process ended, or the time ran out (then it is killed).
        """
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if not self.is_running():
                raise ProcessError(self.command.name, "ended while it started", self.command.log, self.exit_status())
            if time.monotonic() > deadline:
                self.kill()
                raise ProcessError(self.command.name, f"did not become ready within {timeout_s:g} s", self.command.log)
            time.sleep(POLL_S)

    def wait(self, timeout_s: float) -> int | None:
        """Exit status once it ended, None if it still runs after ``timeout_s``."""
        if self._popen is None:
            return None
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def require_success(self, timeout_s: float, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait for a tool to end well; it is killed when that takes too long, or when ``is_cancelled``.

        Raises:
            ProcessError: it failed or did not end in time.
        """
        deadline = time.monotonic() + timeout_s
        while (status := self.wait(POLL_S)) is None and time.monotonic() < deadline:
            if is_cancelled():
                self.kill()
                return
        if status != 0:
            self.kill()
            what = f"did not end within {timeout_s:g} s" if status is None else "failed"
            raise ProcessError(self.command.name, what, self.command.log, status)

    def stop(self, timeout_s: float = 20.0) -> int | None:
        """SIGTERM, then SIGKILL for its whole group after ``timeout_s``. Exit status, None if it never ran."""
        if self.is_running():
            self.signal(signal.SIGTERM)
            self.resume()  # a paused process keeps SIGTERM for later
            self.wait(timeout_s)
        return self.kill()

    def pause(self) -> None:
        """SIGSTOP: it keeps its memory, connections and files, and does nothing, until ``resume``.

        Returns when each thread stands still: one on another core may answer for a moment after the signal.
        """
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + PAUSE_S
        while not _stands_still(self.pid) and time.monotonic() < deadline:
            time.sleep(0.005)

    def resume(self) -> None:
        """SIGCONT; nothing when it is not paused."""
        self.signal(signal.SIGCONT)

    def kill(self) -> int | None:
        """SIGKILL for it and its descendants; returns when it is gone. Exit status, None if it never ran."""
        if self._popen is None:
            return None
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
        return self._popen.wait(KILL_TIMEOUT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone; nothing when it has ended."""
        if self._popen is not None:
            self._popen.send_signal(number)


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log file, indented; says so when there are none."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace").rstrip()
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (empty)"


def own(path: Path, user: str | None) -> None:
    """Make directory ``path``, and give it to ``user`` when started as root."""
    path.mkdir(parents=True, exist_ok=True)
    if user is not None and os.geteuid() == 0:
        account = pwd.getpwnam(user)
        os.chown(path, account.pw_uid, account.pw_gid)


def _user_for(user: str | None) -> str:
    return user if user is not None and os.geteuid() == 0 else "-"


def _stands_still(pid: int) -> bool:
    """Every thread of the process is stopped. Read from /proc; a system without it is taken at its word."""
    try:
        states = [
            stat.read_text(errors="replace").rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except FileNotFoundError:  # a thread ended meanwhile
        return False
    return all(state in "tT" for state in states)

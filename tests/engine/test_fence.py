"""A process that stood still for longer than its group waits ends before it writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import pytest

from app.engine.fence import TICKS, Fence, SelfFenced, boot_clock
from app.engine.guard import EXIT_FATAL
from app.settings import Settings
from tests.engine.support import FakeFatal
from tests.telemetry.fakes import FakeClock

ROOT = Path(__file__).parents[2]
LIMIT_S = 9.0


@dataclass
class Fenced:
    """A fence whose clock, ownership and end are the test's."""

    clock: FakeClock = field(default_factory=FakeClock)
    fatal: FakeFatal = field(default_factory=FakeFatal)
    owning: bool = True

    def __post_init__(self) -> None:
        self.fence = Fence(LIMIT_S, lambda: self.owning, self.fatal, self.clock)


@pytest.fixture
def fenced() -> Fenced:
    return Fenced()


def test_a_loop_that_ticks_is_never_fenced(fenced: Fenced) -> None:
    for _ in range(1000):
        fenced.clock.now += LIMIT_S / TICKS
        fenced.fence.tick()
        fenced.fence.check()
    assert fenced.fatal.reasons == []


def test_a_pause_up_to_the_limit_is_forgiven(fenced: Fenced) -> None:
    fenced.clock.now += LIMIT_S
    fenced.fence.check()
    fenced.fence.tick()
    assert (fenced.fatal.reasons, fenced.fence.longest_s) == ([], LIMIT_S)


def test_the_first_tick_after_a_longer_pause_ends_the_process(fenced: Fenced) -> None:
    fenced.clock.now += 12.5
    with pytest.raises(SelfFenced) as fence:
        fenced.fence.tick()
    assert fence.value.gap_s == 12.5
    assert fenced.fatal.reasons == [
        "this process stood still for 12.5 s (limit 9 s): the group has given its partitions away by now"
    ]


def test_a_send_before_the_first_tick_after_a_pause_ends_the_process_and_is_not_sent(fenced: Fenced) -> None:
    fenced.clock.now += LIMIT_S + 0.001
    with pytest.raises(SelfFenced):
        fenced.fence.check()
    assert len(fenced.fatal.reasons) == 1


def test_who_owns_nothing_may_stand_still(fenced: Fenced) -> None:
    fenced.owning = False
    fenced.clock.now += 3600
    fenced.fence.tick()
    fenced.owning = True
    fenced.clock.now += 1
    fenced.fence.tick()
    fenced.fence.check()
    assert (fenced.fatal.reasons, fenced.fence.longest_s) == ([], 1)


def test_the_longest_pause_is_kept_for_the_metrics(fenced: Fenced) -> None:
    for pause in (1.0, 7.0, 2.0):
        fenced.clock.now += pause
        fenced.fence.tick()
    assert fenced.fence.longest_s == 7.0


def test_two_stops_without_the_loop_between_them_add_up(fenced: Fenced) -> None:
    fenced.clock.now += 5
    fenced.fence._continued()
    fenced.clock.now += 5
    with pytest.raises(SelfFenced):
        fenced.fence._continued()


def test_being_continued_is_no_matter_for_who_owns_nothing(fenced: Fenced) -> None:
    fenced.owning = False
    fenced.clock.now += 3600
    fenced.fence._continued()
    assert fenced.fatal.reasons == []


def test_the_limit_leaves_room_for_the_last_heartbeat() -> None:
    settings = Settings(kafka_session_timeout_ms=10_000, kafka_heartbeat_interval_ms=1_000)
    assert Fence.of(settings, lambda: True).limit_s == 9.0


def test_the_clock_goes_on_while_the_machine_is_suspended() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= boot_clock()() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_without_such_a_clock_the_monotonic_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert boot_clock() is time.monotonic


async def test_it_ticks_by_itself_and_gives_the_signal_back() -> None:
    before = signal.getsignal(signal.SIGCONT)
    fatal = FakeFatal()
    fence = Fence(2.0, lambda: True, fatal)
    task = asyncio.create_task(fence.run())
    await asyncio.sleep(0.25)
    assert 0.1 <= fence.longest_s < 2.0
    assert signal.getsignal(signal.SIGCONT) is not before
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert signal.getsignal(signal.SIGCONT) is before
    assert fatal.reasons == []


# -- real processes -----------------------------------------------------------------------------------


@dataclass
class Process:
    """A running ``fenced_process``."""

    popen: subprocess.Popen[bytes]

    @property
    def stdin(self) -> IO[bytes]:
        return cast("IO[bytes]", self.popen.stdin)

    def line(self) -> bytes:
        """Its next line of output."""
        return cast("IO[bytes]", self.popen.stdout).readline()

    def stop_for(self, seconds: float, line: bytes = b"") -> None:
        """SIGSTOP, input meanwhile, SIGCONT."""
        os.kill(self.popen.pid, signal.SIGSTOP)
        if line:
            self.stdin.write(line)
            self.stdin.flush()
        time.sleep(seconds)
        os.kill(self.popen.pid, signal.SIGCONT)

    def rest(self) -> bytes:
        """What it printed until it ended."""
        return self.popen.communicate(timeout=20)[0]


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes that own partitions; arguments: loop, limit, whether SIGCONT is heard."""
    started: list[Process] = []

    def begin(loop: str, limit_s: float = 1.0, with_signal: str = "on") -> Process:
        command = [sys.executable, "-m", "tests.engine.fenced_process", loop, str(limit_s), with_signal]
        pipe = subprocess.PIPE
        # A session of its own: a stopped process in ours would get us all a SIGHUP if the shell above went away.
        popen = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)
        started.append(Process(popen))
        assert started[-1].line() == b"ready\n"
        return started[-1]

    yield begin
    for process in started:
        process.popen.kill()
        process.popen.communicate()


@pytest.mark.process
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_after_a_long_stop_the_process_ends_before_the_loop_runs_anything(start: Start, loop: str) -> None:
    process = start(loop)
    process.stop_for(2.0, b"acknowledged\n")
    printed = process.rest()
    assert process.popen.returncode == EXIT_FATAL
    assert b"stood still for" in printed
    assert b"callback" not in printed


@pytest.mark.process
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_without_a_signal_input_comes_first_and_the_check_before_the_write_ends_the_process(start: Start, loop: str) -> None:
    process = start(loop, with_signal="off")
    process.stop_for(2.0, b"acknowledged\n")
    printed = process.rest()
    assert process.popen.returncode == EXIT_FATAL
    assert b"wrote" not in printed


@pytest.mark.process
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_short_stop_changes_nothing(start: Start, loop: str) -> None:
    process = start(loop, limit_s=30.0)
    process.stop_for(0.3, b"acknowledged\n")
    assert process.line() == b"callback\n"
    assert process.line() == b"wrote acknowledged\n"

"""The demo's tools as child processes: ``veltrix topics apply`` and ``veltrix generate``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import ROOT, clean_environment

TOPICS_TIMEOUT_S = 60.0
FLUSH_TIMEOUT_S = 40.0
FOR_EVER_S = 365 * 86_400


@dataclass(frozen=True, slots=True)
class Sent:
    """What the broker acknowledged to the generator, and how long it sent."""

    records: int
    seconds: float


class Traffic:
    """The generator: at ``rate`` records per second for ``duration_s`` seconds, 0: until it is told to stop."""

    def __init__(self, folder: Path, env: Mapping[str, str], rate: float, duration_s: float) -> None:
        self._result = folder / "generate.json"
        seconds = str(duration_s or FOR_EVER_S)
        argv = [*veltrix(), "generate", "--rate", str(rate), "--duration", seconds]
        log = folder / "generate.log"
        self._process = ManagedProcess(
            Command("veltrix generate", argv, log, cwd=ROOT, env=clean_environment() | dict(env), stdout=self._result)
        )

    def start(self) -> None:
        self._process.start()

    def is_running(self) -> bool:
        return self._process.is_running()

    def finish(self) -> Sent:
        """Stop sending (if it still does), wait for the last acknowledgement, say what was sent.

        Raises:
            ProcessError: it failed, or did not end in time.
        """
        self._process.signal(signal.SIGTERM)
        self._process.require_success(FLUSH_TIMEOUT_S)
        lines = self._result.read_text(encoding="utf-8").splitlines()
        result = json.loads(lines[-1])
        return Sent(int(result["sent"]), float(result["seconds"]))

    def kill(self) -> None:
        """End it whatever it does."""
        self._process.kill()


def apply_topics(folder: Path, env: Mapping[str, str]) -> None:
    """Make all topics.

    Raises:
        ProcessError: some could not be made; holds what the command said.
    """
    _run(("topics", "apply"), folder / "topics.log", env)


def seed_reference(folder: Path, env: Mapping[str, str]) -> None:
    """Fill the reference tables for the generator's visitors and products.

    Raises:
        ProcessError: the database did not take them; holds what the command said.
    """
    _run(("generate", "--seed-reference"), folder / "seed.log", env)


def _run(arguments: tuple[str, ...], log: Path, env: Mapping[str, str]) -> None:
    name = " ".join(("veltrix", *arguments))
    process = ManagedProcess(Command(name, [*veltrix(), *arguments], log, cwd=ROOT, env=clean_environment() | dict(env)))
    process.start()
    process.require_success(TOPICS_TIMEOUT_S)


def veltrix() -> list[str]:
    """The ``veltrix`` command of our environment."""
    script = Path(sys.executable).with_name("veltrix")
    return [str(script)] if script.exists() else [sys.executable, "-m", "app.cli.main"]

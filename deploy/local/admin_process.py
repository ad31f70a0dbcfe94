"""``veltrix admin`` as a process of this machine: the index of the demo's dead letters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import LOOPBACK
from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import ROOT, clean_environment

STOP_TIMEOUT_S = 15.0


class AdminProcess:
    """One process with its index in ``folder``. ``env``: ``VELTRIX_*`` variables."""

    def __init__(self, folder: Path, env: Mapping[str, str], port: int) -> None:
        self.url = f"http://{LOOPBACK}:{port}"
        own = {"VELTRIX_ADMIN_PORT": str(port), "VELTRIX_ADMIN_DIR": str(folder.resolve() / "index")}
        argv = ["nice", "-n", "10", sys.executable, "-m", "app.admin"]  # what it does can wait, what the worker does is shown
        command = Command("veltrix admin", argv, folder / "admin.log", cwd=ROOT, env=clean_environment() | dict(env) | own)
        self._process = ManagedProcess(command)

    @property
    def log(self) -> Path:
        return self._process.command.log

    def is_running(self) -> bool:
        return self._process.is_running()

    def start(self) -> None:
        """Start and return at once: it answers a second or two later, and nothing waits for it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._process.start()

    def stop(self) -> None:
        self._process.stop(STOP_TIMEOUT_S)

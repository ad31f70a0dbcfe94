"""``veltrix admin`` as a process of this machine: the index of the demo's dead letters."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import ROOT, clean_environment


def admin_process(folder: Path, env: Mapping[str, str], port: int) -> ManagedProcess:
    """One process with its index in ``folder``. ``env``: ``VELTRIX_*`` variables. Nobody waits until it answers."""
    own = {"VELTRIX_ADMIN_PORT": str(port), "VELTRIX_ADMIN_DIR": str(folder.resolve() / "index")}
    argv = ["nice", "-n", "10", sys.executable, "-m", "app.admin"]  # what it does can wait, what the worker does is shown
    return ManagedProcess(Command("veltrix admin", argv, folder / "admin.log", cwd=ROOT, env=clean_environment() | dict(env) | own))

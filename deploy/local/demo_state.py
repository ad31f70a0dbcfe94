"""What a running demo tells ``make worker``, and what those workers tell the demo: small files under var/demo.

``state.json`` exists while the demo wants workers; each further worker keeps ``workers/<name>.json`` while it runs,
and ends by itself once ``state.json`` is gone. No process signals another one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.local.worker_process import ROOT

FOLDER = ROOT / "var" / "demo"


@dataclass(frozen=True, slots=True)
class WorkerRef:
    """A worker of the demo. ``pid`` is the process that looks after it."""

    name: str
    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class DemoState:
    """A running demo. ``env``: the ``VELTRIX_*`` variables of every worker and tool."""

    pid: int
    env: Mapping[str, str]


class DemoFiles:
    """The files of one demo folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._state = folder / "state.json"
        self._workers = folder / "workers"

    def write(self, state: DemoState) -> None:
        """Let further workers come."""
        _write(self._state, asdict(state))

    def read(self) -> DemoState | None:
        """The demo that runs now, None when there is none (also when it died and left its file)."""
        try:
            state = DemoState(**json.loads(self._state.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        return state if is_alive(state.pid) else None

    def forget(self) -> None:
        """Ask further workers to end."""
        self._state.unlink(missing_ok=True)

    def join(self, worker: WorkerRef) -> None:
        _write(self._workers / f"{worker.name}.json", asdict(worker))

    def leave(self, name: str) -> None:
        (self._workers / f"{name}.json").unlink(missing_ok=True)

    def joined(self) -> list[WorkerRef]:
        """Further workers whose process lives, by name."""
        found = []
        for path in sorted(self._workers.glob("*.json")):
            try:
                found.append(WorkerRef(**json.loads(path.read_text(encoding="utf-8"))))
            except FileNotFoundError:  # left just now
                continue
        return [worker for worker in found if is_alive(worker.pid)]


def is_alive(pid: int) -> bool:
    """Whether a process with that id runs, ours or not. A zombie, which its parent has not collected yet, does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(Path(f"/proc/{pid}/stat"))


def _is_zombie(stat: Path) -> bool:
    try:
        return stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "Z"
    except OSError:  # gone just now, or a system without /proc
        return False


def _write(path: Path, value: Mapping[str, object]) -> None:
    """Whole or not at all: others read at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(path)

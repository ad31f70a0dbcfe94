"""A disk of a few megabytes that a test can fill: a tmpfs, which needs the right to mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

KIB = 1024
STEP_KIB = 256


class SmallDisk:
    """A mounted tmpfs. ``fill`` leaves some room, ``free`` takes the ballast away again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, leave_kib: int) -> None:
        """Write ballast until ``leave_kib`` are free, or fewer when others write at the same time."""
        with self._ballast.open("ab", buffering=0) as file, suppress(OSError):  # they took the last room: full is full
            while (size := self._free_kib() - leave_kib) > 0:
                file.write(bytes(min(size, STEP_KIB) * KIB))

    def free(self) -> None:
        """The cause of the full disk is gone."""
        self._ballast.unlink()

    def _free_kib(self) -> int:
        room = os.statvfs(self.path)
        return room.f_bavail * room.f_frsize // KIB


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[SmallDisk]:
    """Mount a tmpfs of ``mib`` MiB on ``path`` for the length of the block; skips the test where nobody may mount."""
    path.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs needs the right to mount: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)

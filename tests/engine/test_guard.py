"""One worker per data directory; a promise that cannot be kept ends the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.engine.guard import EXIT_FATAL, EXIT_REFUSED, DataDirLocked, lock_data_dir

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own."""
    prelude = "import sys\nfrom pathlib import Path\nfrom app.engine.guard import *\nfrom app.engine.guard import fatal, refuse\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_data_directory_is_made_and_names_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with lock_data_dir(path):
        assert (path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_a_second_worker_on_the_data_directory_is_refused_and_told_whose_it_is(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path):
        second = run(
            "try: lock_data_dir(Path(sys.argv[1]))\nexcept DataDirLocked as exc: print(exc, exc.path)\nelse: sys.exit(3)",
            str(tmp_path),
        )
    assert second.returncode == 0, second.stderr
    assert f"pid {os.getpid()}" in second.stdout
    assert "VELTRIX_DATA_DIR" in second.stdout
    assert str(tmp_path) in second.stdout


def test_the_lock_is_exclusive_within_a_process_too(tmp_path: Path) -> None:
    with lock_data_dir(tmp_path), pytest.raises(DataDirLocked):
        lock_data_dir(tmp_path)


def test_the_data_directory_is_free_again_after_closing_and_after_a_crash(tmp_path: Path) -> None:
    lock_data_dir(tmp_path).close()
    crashed = run("handle = lock_data_dir(Path(sys.argv[1]))\nimport os\nos._exit(9)", str(tmp_path))
    assert crashed.returncode == 9
    with lock_data_dir(tmp_path):
        assert (tmp_path / "LOCK").read_text() == f"{os.getpid()}\n"


def test_fatal_ends_the_process_at_once_with_70_and_says_why() -> None:
    code = "try:\n  try: 1 / 0\n  except ZeroDivisionError as exc: fatal('the changelog refused a batch', exc)\nfinally: print('graceful stop')"
    ended = run(code)
    assert ended.returncode == EXIT_FATAL == 70
    said = ended.stdout + ended.stderr
    assert "the changelog refused a batch" in said
    assert "ZeroDivisionError" in said
    assert "graceful stop" not in said


def test_refuse_ends_the_process_with_78_and_says_why() -> None:
    ended = run("refuse('topic interactions is missing')")
    assert ended.returncode == EXIT_REFUSED == 78
    assert "topic interactions is missing" in ended.stdout + ended.stderr

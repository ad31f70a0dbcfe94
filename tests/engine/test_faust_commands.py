"""What Faust's own command line says of our app, and what it must not do to it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.topics import INTERACTIONS, ITEM_ACTIVITY

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.process


def faust(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "faust"), "-A", "app.main", *arguments]
    env = os.environ | {"VELTRIX_DATA_DIR": str(data_dir), "COLUMNS": "200"}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=50, check=False)


def test_agents_are_listed_with_their_sources_and_first_sentences(tmp_path: Path) -> None:
    listed = faust("agents", data_dir=tmp_path)
    assert listed.returncode == 0, listed.stderr
    rows = {line.split("|")[1].strip(): line for line in listed.stdout.splitlines() if line.startswith("| @")}
    assert set(rows) == {"@process_interactions", "@aggregate_items"}
    assert f"| {INTERACTIONS} " in rows["@process_interactions"]
    assert "Valid unique events" in rows["@process_interactions"]
    assert f"| {ITEM_ACTIVITY} " in rows["@aggregate_items"]


def test_tables_are_listed_with_their_views(tmp_path: Path) -> None:
    listed = faust("tables", data_dir=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "user_profiles, seen_ids, user_sessions" in listed.stdout


def test_a_reset_by_fausts_command_fails_and_names_ours(tmp_path: Path) -> None:
    kept = tmp_path / "tables" / "process_interactions-0.db"
    kept.mkdir(parents=True)
    said = faust("reset", data_dir=tmp_path)
    assert said.returncode != 0
    assert "veltrix reset" in said.stderr + said.stdout
    assert kept.exists()

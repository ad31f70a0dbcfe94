"""Environments that make a worker run with a guard removed, or with another wall clock.

A worker that starts with one of them on its PYTHONPATH imports ``sitecustomize`` of this folder, which patches it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
PATCHES = HERE / "on_path"
MUTANT, CLOCK = "FAULT_MUTANT", "FAULT_CLOCK_AHEAD_S"

Mutant = Literal["marker_ignored", "commits_ahead", "state_before_outputs", "plain_batches", "zombie_unnoticed", "dedupe_off"]


def with_mutant(name: Mutant) -> dict[str, str]:
    """Run a worker without one of its guards; see ``on_path/sitecustomize.py``."""
    return _on_path() | {MUTANT: name}


def with_clock_ahead(seconds: float) -> dict[str, str]:
    """Run a worker whose ``time.time`` and ``time.time_ns`` are shifted. Monotonic clocks are not."""
    return _on_path() | {CLOCK: str(seconds)}


def _on_path() -> dict[str, str]:
    inherited = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(PATCHES), str(ROOT), *([inherited] if inherited else [])])}

"""One JSON object a line per run of a fault: appended to ``var/faults/results.jsonl``, published as ``recorded/latest.jsonl``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PUBLISHED = HERE / "recorded" / "latest.jsonl"
COLLECTED = Path(os.environ.get("FAULT_RESULTS", ROOT / "var" / "faults" / "results.jsonl"))


class RunResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one run of one fault promised and what was seen. Seconds are wall time."""

    fault: str
    guarantee: str
    seed: int
    promised: str
    passed: bool
    at: str
    """UTC, RFC 3339, when the run ended"""
    test: str = ""
    """pytest id: with ``FAULT_SEED`` it repeats the run"""
    may_repeat: bool = False
    """outputs in flight at the fault may come again with the same bytes"""
    injections: int = 0
    """how often the fault was injected in this run"""
    sent: int = 0
    outputs: int = 0
    """distinct"""
    duplicate_outputs: int = 0
    dead_letters: int = 0
    duplicate_dead_letters: int = 0
    lost: int = 0
    phantom: int = 0
    sequence_holes: int = 0
    state_differences: int = 0
    resume_s: tuple[float, ...] = ()
    """per injection: until everything sent before it was processed and committed"""
    exit_statuses: tuple[int, ...] = ()
    """of workers that ended by themselves"""
    violations: tuple[str, ...] = ()


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(RunResult)


def append(result: RunResult, path: Path = COLLECTED) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(_encode(result) + b"\n")


def load(path: Path) -> list[RunResult]:
    """All runs in a file; none if it does not exist."""
    return [_decoder.decode(line) for line in path.read_bytes().splitlines() if line.strip()] if path.exists() else []


def save(results: Iterable[RunResult], path: Path) -> None:
    """Replace the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(_encode(result) + b"\n" for result in results))

"""What a case returns and how it is written: one JSON line per case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bench.host import Host

Numbers = dict[str, float]
Parameters = dict[str, int | float | str | bool]

#: The numbers that are compared, and whether more is better; all others only explain.
COMPARED: dict[str, bool] = {
    "events_per_second": True,
    "events_per_cpu_second": True,
    "records_per_second": True,
    "p50_ms": False,
    "p99_ms": False,
    "cpu_ms_per_event": False,
    "peak_rss_mib": False,
    "changelog_bytes_per_event": False,
    "paced_changelog_bytes_per_event": False,
    "seconds_to_ready": False,
}


class Goal(msgspec.Struct, frozen=True):
    """One stated requirement. ``met`` is None when the number could not be measured."""

    text: str
    measured: float | None
    met: bool | None


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """One case. A case with ``failures`` gave wrong results, so its numbers mean nothing; a ``void`` one was disturbed.

    ``subjects`` holds the numbers of ``worker``, ``hand`` and ``floor``, units in their names; ``ratio`` the worker's
    over the hand-written loop's of the same run. ``histograms`` are HDR base64 texts.
    """

    case: str
    parameters: Parameters
    subjects: dict[str, Numbers]
    ratio: Numbers = {}
    goals: list[Goal] = []
    failures: list[str] = []
    void: list[str] = []
    load_before: float = 0.0
    load_after: float = 0.0
    seconds: float = 0.0
    at: str = ""
    host: Host | None = None
    histograms: dict[str, str] = {}


def ratios(subjects: Mapping[str, Numbers], of: str = "worker", over: str = "hand") -> Numbers:
    """The worker's numbers divided by the yardstick's, where both have one; empty when one of them did not run."""
    worker, yardstick = subjects.get(of, {}), subjects.get(over, {})
    return {name: round(worker[name] / yardstick[name], 3) for name in COMPARED if name in worker and yardstick.get(name)}


def at_least(text: str, measured: float | None, wanted: float) -> Goal:
    return Goal(f"{text} >= {wanted:g}", measured, None if measured is None else measured >= wanted)


def at_most(text: str, measured: float | None, wanted: float) -> Goal:
    return Goal(f"{text} <= {wanted:g}", measured, None if measured is None else measured <= wanted)


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_line(result: CaseResult) -> str:
    return msgspec.json.encode(result).decode()


def save(path: Path, results: Iterable[CaseResult]) -> None:
    """Replace the lines of these cases in a results file, keep the others."""
    kept = {result.case: result for result in load(path)} | {result.case: result for result in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(to_line(result) + "\n" for result in kept.values()), encoding="utf-8")


def load(path: Path) -> list[CaseResult]:
    """Results of a file; none when it does not exist yet."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=CaseResult) for line in path.read_text(encoding="utf-8").splitlines() if line]

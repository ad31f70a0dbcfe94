"""Values and engines made up for tests of telemetry and the sidecar."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.engine.api import LaneId
from app.engine.status import LaneStatus, Ledger, Phase, RecoveryStatus, Stage, Stall, StandbyStatus, UnitReport

AGENT = "process_interactions"
NOW_MS = 1_700_000_000_000
AFTER_MS: dict[Stage, int] = {
    "fetched": 2, "taken": 4, "decoded": 6, "enriched": 9, "computed": 12, "produced": 14, "visible": 20, "durable": 25,
}  # fmt: skip


def unit(records: int = 10, partition: int = 0, topic: str = "interactions", **changes: object) -> UnitReport:
    """A unit whose records all emitted, each 20 ms old when visible and 25 ms when durable."""
    values: dict[str, object] = {
        "lane": LaneId(AGENT, partition),
        "topic": topic,
        "records": records,
        "source_bytes": records * 400,
        "emitted": records,
        "duplicates": 0,
        "dropped": 0,
        "dead_letters": [],
        "timestamps": [NOW_MS] * records,
        "reached": {stage: NOW_MS + after for stage, after in AFTER_MS.items()},
        "seconds": {"compute": 0.5, "changelog": 0.25},
        "changelog_records": records + 1,
        "changelog_bytes": records * 100,
    }
    return UnitReport(**(values | changes))  # type: ignore[arg-type]


def lane(partition: int = 0, **changes: object) -> LaneStatus:
    """A lane in good health with 5 records of lag."""
    values: dict[str, object] = {
        "lane": LaneId(AGENT, partition),
        "topic": "interactions",
        "queued_records": 3,
        "units_in_flight": 1,
        "paused": False,
        "next_offset": 95,
        "committed_offset": 90,
        "end_offset": 100,
        "changelog_offset": 200,
        "ledger": Ledger(consumed=95, emitted=80, duplicates=10, dead_lettered=5),
        "seconds_since_progress": 0.1,
        "seconds_since_commit": 0.2,
        "state_keys": 42,
    }
    return LaneStatus(**(values | changes))  # type: ignore[arg-type]


@dataclass
class FakeEngine:
    """``EngineStatus`` whose every answer a test sets."""

    now: Phase = "running"
    waits: list[str] = field(default_factory=list)
    statuses: list[LaneStatus] = field(default_factory=lambda: [lane(0), lane(1)])
    restore: RecoveryStatus = field(default_factory=RecoveryStatus)
    table: dict[tuple[LaneId, bytes], bytes] = field(default_factory=dict)
    copies: list[StandbyStatus] = field(default_factory=list)

    def phase(self) -> Phase:
        return self.now

    def waiting_for(self) -> list[str]:
        return self.waits

    def lanes(self) -> list[LaneStatus]:
        return self.statuses

    def recovery(self) -> RecoveryStatus:
        return self.restore

    def standbys(self) -> list[StandbyStatus]:
        return self.copies

    def owns(self, lane: LaneId) -> bool:
        return any(status.lane == lane for status in self.statuses)

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None:
        if not self.owns(lane):
            raise KeyError(lane)
        return self.table.get((lane, raw_key))


@dataclass
class FakeWatchdog:
    """``Stalls`` that a test fills; also what the metrics read."""

    found: list[Stall] = field(default_factory=list)
    still: dict[tuple[str, int], float] = field(default_factory=dict)
    failures: int = 0

    def stalls(self) -> list[Stall]:
        return self.found

    def still_seconds(self) -> dict[tuple[str, int], float]:
        return self.still


@dataclass
class FakeClock:
    """Seconds that pass only when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now

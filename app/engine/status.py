"""What the engine tells others about itself: read by the sidecar and the metrics, fed by lanes.

Protocols and plain values only, so that sidecar, lookups and telemetry are tested without an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from app.engine.api import LaneId

Phase = Literal["starting", "joining", "recovering", "running", "rebalancing", "stopping"]
#: How far a record has come: fetched from Kafka, taken into a micro-batch, decoded, joined with reference data, its new state
#: computed, its outputs handed to the Kafka client, readable by others, its state stored. ``AGENT_STAGES`` are there if its
#: agent's body tells of them.
Stage = Literal["fetched", "taken", "decoded", "enriched", "computed", "produced", "visible", "durable"]
#: What a record has reached when the agent's body is done with a step (``Effects.step``).
AGENT_STAGES: Final[Mapping[str, Stage]] = {"decode": "decoded", "enrich": "enriched"}
#: What Kafka would not take.
EndCause = Literal["dead_letters", "outputs", "changelog", "other"]
BreakerState = Literal["closed", "open", "half_open"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """Cumulative outcomes of one lane since its first record ever; survives kill -9 in the marker."""

    consumed: int = 0
    emitted: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    retried: int = 0
    dropped: int = 0

    @property
    def residue(self) -> int:
        """Consumed records without an outcome. Always 0; anything else is a loss."""
        return self.consumed - self.emitted - self.duplicates - self.dead_lettered - self.retried - self.dropped


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A lane's breaker right now. Counts are those of its sliding window."""

    state: BreakerState = "closed"
    openings: int = 0
    """how often it opened since this process started"""
    retry_in_s: float = 0.0
    """seconds until it lets a few records through again; 0 unless open"""
    events: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A key whose order is kept: its event of that source offset has failed, at ``since_ms`` (epoch ms); so many wait behind it."""

    offset: int
    since_ms: int
    waiting: int


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """All of one lane: how many keys, how many events that wait, and those held longest."""

    keys: int = 0
    waiting: int = 0
    oldest: tuple[HeldKey, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One lane right now. Offsets are the next to read, -1 when unknown; ages in seconds."""

    lane: LaneId
    topic: str
    queued_records: int
    units_in_flight: int
    paused: bool
    next_offset: int
    committed_offset: int
    end_offset: int
    changelog_offset: int
    ledger: Ledger
    seconds_since_progress: float
    seconds_since_commit: float
    state_keys: int
    breaker: BreakerStatus = BreakerStatus()
    waiting: Mapping[str, int] = field(default_factory=dict)
    """values that wait for their time, by view: open sessions, open windows"""
    is_tier: bool = False
    """``topic`` is a retry tier of the lane's source"""
    not_due: int = 0
    """records of the tier that are read and wait for their time"""
    dead_letters_wait_s: float = 0.0
    """for how long dead letters have been on their way to Kafka; 0 when none are"""
    held: HeldKeys = HeldKeys()

    @property
    def held_by(self) -> str:
        """What keeps the lane from taking records by design; empty when it should move. A pause by design is no stall."""
        if self.breaker.state == "open":
            return "breaker"
        return "retry_delay" if self.not_due else ""

    @property
    def lag(self) -> int:
        """Records in the source that are not yet applied."""
        return max(0, self.end_offset - self.next_offset) if self.end_offset >= 0 and self.next_offset >= 0 else 0


@dataclass(frozen=True, slots=True)
class Stall:
    """A source partition of a lane that should move and does not."""

    lane: LaneId
    topic: str
    seconds: float
    """for how long it has been seen not to move"""
    lag: int


@dataclass(frozen=True, slots=True)
class RecoveryStatus:
    """Progress of the current or last restore of tables from changelogs."""

    active: bool = False
    restored: int = 0
    remaining: int = 0
    records_per_second: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StandbyStatus:
    """One warm copy of another worker's table. ``lag``: changelog records behind its end, -1 while unknown."""

    lane: LaneId
    lag: int


@dataclass(frozen=True, slots=True)
class LastEnd:
    """Why the process before this one ended itself rather than break a promise."""

    at_s: float
    """epoch seconds"""
    cause: EndCause
    reason: str


class EngineStatus(Protocol):
    """The running engine, as the sidecar sees it. Cheap: safe to call per request."""

    def phase(self) -> Phase: ...

    def waiting_for(self) -> list[str]:
        """Human words for what readiness waits for; empty when ready."""
        ...

    def lanes(self) -> list[LaneStatus]: ...

    def recovery(self) -> RecoveryStatus: ...

    def standbys(self) -> list[StandbyStatus]:
        """Warm copies that this worker keeps for others."""
        ...

    def owns(self, lane: LaneId) -> bool:
        """The lane is assigned to this worker and restored."""
        ...

    def read(self, lane: LaneId, raw_key: bytes) -> bytes | None:
        """Point read of the newest durable or staged raw value; KeyError when the lane is not owned."""
        ...


class BreakerControl(Protocol):
    """The breakers of this process, for an operator."""

    def close(self, lane: LaneId) -> BreakerStatus:
        """Close a lane's breaker by hand; returns what it was before. KeyError: the lane has none."""
        ...


class Stalls(Protocol):
    """Who knows which partitions stand still without a reason."""

    def stalls(self) -> Sequence[Stall]:
        """Those that have stood still for longer than the limit, longest first."""
        ...


@dataclass(frozen=True, slots=True)
class UnitReport:
    """One unit that became durable; handed to observers once per unit, on the event loop."""

    lane: LaneId
    topic: str
    records: int
    source_bytes: int
    emitted: int
    duplicates: int
    dropped: int
    dead_letters: Sequence[tuple[str, str]]
    """(stage, reason) of each dead letter"""
    timestamps: Sequence[int]
    """broker or producer timestamp of each record, epoch ms"""
    reached: Mapping[Stage, int]
    """wall clock when the unit had come that far, epoch ms"""
    seconds: Mapping[str, float]
    """wall seconds per phase: compute, outputs, changelog, store"""
    changelog_records: int
    changelog_bytes: int
    late: Mapping[str, int] = field(default_factory=dict)
    """events that came too late, by the result that leaves them out"""
    retries: Sequence[tuple[str, str]] = ()
    """(stage, reason) of each record that is to be tried again"""
    outputs: Mapping[str, int] = field(default_factory=dict)
    """records published, by topic; dead letters and retries not among them"""
    steps: Mapping[str, float] = field(default_factory=dict)
    """wall seconds within compute, by what the agent's body says it did: decode, enrich, state"""
    traced: Sequence[tuple[int, str]] = ()
    """timestamp (epoch ms) and trace id of each record that is recorded in a trace"""


class Observer(Protocol):
    """Receives facts from the engine, per unit and never per record. Must not block or raise."""

    def unit_done(self, report: UnitReport) -> None: ...

    def committed(self, seconds: float, ok: bool) -> None: ...

    def restored(self, lane: LaneId, records: int, size: int) -> None: ...

    def rebalanced(self, seconds: float, partitions: int) -> None: ...


class LaneTable(Protocol):
    """Read access to one lane's durable table, for write-through consumers such as Redis lookups."""

    lane: LaneId
    changelog_topic: str

    def changelog_offset(self) -> int:
        """Offset of the last changelog record that is in RocksDB; -1 when empty."""
        ...

    def estimated_keys(self) -> int:
        """About how many keys it has, of all views."""
        ...

    def scan(self, prefix: bytes, start_after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Up to ``limit`` pairs with that prefix after ``start_after`` in key order; b"" starts. Holds no iterator open."""
        ...


class DurableListener(Protocol):
    """Follows the table of each owned lane. Called on the event loop; must not block."""

    def lane_started(self, table: LaneTable) -> None: ...

    def unit_durable(
        self, lane: LaneId, writes: Mapping[bytes, bytes | None], stamp: int, source_offset: int, previous: int
    ) -> None:
        """``writes``: raw key to raw value, None for a delete. ``stamp``: changelog offset of the unit's last
        record (its marker); ``previous``: that of the unit before, so that a follower can see a gap."""
        ...

    async def lane_stopped(self, lane: LaneId) -> None: ...


class NoListener:
    """Follows nothing: a worker without Redis."""

    def lane_started(self, table: LaneTable) -> None:
        """See :class:`DurableListener`."""

    def unit_durable(
        self, lane: LaneId, writes: Mapping[bytes, bytes | None], stamp: int, source_offset: int, previous: int
    ) -> None:
        """See :class:`DurableListener`."""

    async def lane_stopped(self, lane: LaneId) -> None:
        """See :class:`DurableListener`."""

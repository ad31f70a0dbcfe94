"""How Redis follows the tables, in metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_args

from prometheus_client import CollectorRegistry

from app.engine.api import LaneId
from app.lookups.api import LookupUnavailable
from app.lookups.lane import LaneState, LookupCounters
from app.telemetry.exposition import Catalogue
from app.telemetry.lookups import STATES, LookupMetrics, LookupReads
from tests.sidecar.test_lookups import ANSWER
from tests.telemetry.fakes import AGENT


@dataclass
class FakeFollower:
    """A follower of as many lanes as a test puts in."""

    counters: LookupCounters = field(default_factory=LookupCounters)
    lanes: dict[LaneId, str] = field(default_factory=dict)

    def states(self) -> dict[LaneId, str]:
        return self.lanes

    def behind(self) -> dict[LaneId, int]:
        return {lane: 0 if state == "live" else 100 for lane, state in self.lanes.items()}

    def rebuilding(self) -> dict[LaneId, tuple[int, int]]:
        return {lane: (25, 100) for lane, state in self.lanes.items() if state == "rebuilding"}


if TYPE_CHECKING:
    from app.lookups.writer import LookupWriter
    from app.telemetry.lookups import LookupFollower

    def _the_writer_is_such_a_follower(writer: LookupWriter) -> LookupFollower:
        return writer


def test_the_states_are_those_of_the_writer() -> None:
    assert get_args(LaneState) == STATES


def test_counters_states_and_lag_are_exposed() -> None:
    follower = FakeFollower(
        LookupCounters(units=1, keys=2, failures=3, gaps=4, overflows=5, catch_ups=6, rebuilds=7),
        {LaneId(AGENT, 0): "live", LaneId(AGENT, 1): "live", LaneId(AGENT, 2): "catching_up", LaneId(AGENT, 3): "rebuilding"},
    )
    catalogue = Catalogue(CollectorRegistry())
    LookupMetrics(catalogue, follower)

    def value(name: str, **labels: str) -> float | None:
        return catalogue.registry.get_sample_value(f"veltrix_redis_{name}", labels)

    assert [value(f"{name}_total") for name in ("writes", "keys_written", "failures")] == [1, 2, 3]
    assert [value("losses_total", reason=reason) for reason in ("gap", "overflow")] == [4, 5]
    assert [value("syncs_total", kind=kind) for kind in ("catch_up", "rebuild")] == [6, 7]
    assert [value("lanes", state=state) for state in STATES] == [2, 1, 1, 0]
    assert [value("behind_records", agent=AGENT, partition=number) for number in ("0", "1", "2")] == [0, 0, 100]
    assert [value("rebuilt_ratio", agent=AGENT, partition=number) for number in ("2", "3")] == [None, 0.25]


def test_states_that_no_lane_is_in_are_zero_and_not_absent() -> None:
    catalogue = Catalogue(CollectorRegistry())
    LookupMetrics(catalogue, FakeFollower())

    values = [catalogue.registry.get_sample_value("veltrix_redis_lanes", {"state": state}) for state in STATES]
    assert values == [0, 0, 0, 0]


def test_reads_are_counted_by_what_came_of_them() -> None:
    catalogue = Catalogue(CollectorRegistry())
    reads = LookupReads(catalogue)

    reads.observe(0.004, [ANSWER, None])
    reads.observe(0.2, [LookupUnavailable("redis_down", 3)])

    def value(name: str, **labels: str) -> float | None:
        return catalogue.registry.get_sample_value(f"veltrix_{name}", labels)

    assert [value("lookups_read_total", answer=answer) for answer in ("redis", "absent", "redis_down")] == [1, 1, 1]
    assert (value("lookup_read_seconds_count"), value("lookup_read_seconds_bucket", le="0.005")) == (2, 1)

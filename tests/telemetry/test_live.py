"""Rates and latencies of the last seconds."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app.engine.status import Ledger
from app.telemetry.exposition import Catalogue
from app.telemetry.live import KEPT, LiveNumbers
from app.telemetry.pipeline import PipelineMetrics
from tests.telemetry.fakes import AGENT, NOW_MS, FakeClock, FakeEngine, lane, unit


class Rig:
    """Numbers over a pipeline, an engine and a clock that a test moves."""

    def __init__(self) -> None:
        self.pipeline, self.engine, self.clock = PipelineMetrics(Catalogue(CollectorRegistry())), FakeEngine(), FakeClock()
        self.live = LiveNumbers(self.pipeline, self.engine, self.clock)

    def second(self, records: int = 0, **changes: Any) -> None:
        """A second passes in which that many records were applied."""
        if records:
            self.pipeline.unit_done(unit(records, **changes))
        self.clock.now += 1
        self.live.sample()


@pytest.fixture
def rig() -> Rig:
    made = Rig()
    made.live.sample()
    return made


def test_nothing_is_known_after_one_look(rig: Rig) -> None:
    assert rig.live.per_s("consumed", "interactions") is None
    assert rig.live.latency_ms("interactions", 0.5) is None


def test_a_rate_is_that_of_the_last_ten_seconds(rig: Rig) -> None:
    for _ in range(5):
        rig.second(1000)
    assert rig.live.per_s("consumed", "interactions") == pytest.approx(1000)

    for _ in range(KEPT):
        rig.second(0)
    assert rig.live.per_s("consumed", "interactions") == 0


def test_what_began_during_the_time_counts_from_nothing(rig: Rig) -> None:
    for _ in range(3):
        rig.second(0)
    rig.second(10, outputs={"sessions": 8})

    assert rig.live.per_s("consumed", "interactions") == pytest.approx(10 / 4)
    assert rig.live.per_s("out", AGENT, "sessions") == pytest.approx(8 / 4)


def test_a_lane_that_comes_with_its_count_has_not_processed_that_here(rig: Rig) -> None:
    rig.engine.statuses = []
    rig.second()
    for consumed in (5_000_000, 5_000_100):
        rig.engine.statuses = [lane(3, ledger=Ledger(consumed=consumed, emitted=consumed))]
        rig.second()

    assert rig.live.per_s("lane", AGENT, "3") == pytest.approx(100)


def test_what_never_happened_has_a_rate_of_0(rig: Rig) -> None:
    rig.second(1)

    assert rig.live.per_s("dead_lettered", "interactions") == 0
    assert rig.live.per_s("out", AGENT, "nowhere") == 0


def test_latency_is_of_the_last_seconds_alone(rig: Rig) -> None:
    rig.second(100, reached={"visible": NOW_MS + 5000})
    for _ in range(KEPT + 1):
        rig.second(100, reached={"visible": NOW_MS + 18})

    assert 15 < (rig.live.latency_ms("interactions", 0.5) or 0) <= 20
    assert 15 < (rig.live.latency_ms("interactions", 0.99) or 0) <= 20


def test_latency_is_not_known_when_nothing_came(rig: Rig) -> None:
    rig.second(1)
    for _ in range(KEPT + 1):
        rig.second()

    assert rig.live.latency_ms("interactions", 0.5) is None

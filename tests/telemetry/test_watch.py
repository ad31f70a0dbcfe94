"""What the worker notices about itself, as metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from app.engine.api import LaneId
from app.engine.status import BreakerState, BreakerStatus, HeldKey, HeldKeys, LastEnd, Ledger, StandbyStatus
from app.telemetry.engine import EngineMetrics
from app.telemetry.exposition import Catalogue
from app.telemetry.watch import LastEndMetrics, WatchMetrics
from tests.telemetry.fakes import AGENT, FakeEngine, FakeWatchdog, lane

RETRY = "retry.veltrix.interactions.5s"


@dataclass
class FakeFence:
    """Seconds that a test sets."""

    limit_s: float = 9.0
    longest_s: float = 0.0


class Scrape:
    """Every source over fakes."""

    def __init__(self) -> None:
        catalogue = Catalogue(CollectorRegistry())
        self.registry = catalogue.registry
        self.engine, self.watchdog, self.fence = FakeEngine(), FakeWatchdog(), FakeFence()
        EngineMetrics(catalogue, self.engine)
        WatchMetrics(catalogue, self.engine, self.watchdog, self.fence)

    def value(self, name: str, **labels: str) -> float | None:
        """One sample; None when it is not there."""
        return self.registry.get_sample_value(name, labels)

    def samples(self, name: str) -> list[tuple[tuple[str, str], ...]]:
        """The labels of every sample of a name."""
        return [tuple(s.labels.items()) for family in self.registry.collect() for s in family.samples if s.name == name]


@pytest.fixture
def scrape() -> Scrape:
    return Scrape()


@pytest.mark.parametrize(("state", "value"), [("closed", 0), ("open", 1), ("half_open", 1)])
def test_a_breaker_counts_as_open_until_it_is_closed(scrape: Scrape, state: BreakerState, value: int) -> None:
    scrape.engine.statuses = [lane(3, breaker=BreakerStatus(state, 4))]

    assert scrape.value("veltrix_breaker_open", agent=AGENT, partition="3") == value
    assert scrape.value("veltrix_breaker_openings_total", agent=AGENT, partition="3") == 4


def test_a_partition_that_moves_shows_0_and_one_that_does_not_its_seconds(scrape: Scrape) -> None:
    scrape.watchdog.still = {("interactions", 1): 90.0}

    assert scrape.value("veltrix_partition_stalled_seconds", source="interactions", partition="0") == 0
    assert scrape.value("veltrix_partition_stalled_seconds", source="interactions", partition="1") == 90


def test_a_partition_that_is_not_ours_any_more_is_not_shown(scrape: Scrape) -> None:
    scrape.engine.statuses = []
    scrape.watchdog.still = {("interactions", 1): 90.0}

    assert scrape.samples("veltrix_partition_stalled_seconds") == []


def test_failed_questions_and_the_longest_pause_are_shown(scrape: Scrape) -> None:
    scrape.watchdog.failures, scrape.fence.longest_s = 3, 4.5

    assert scrape.value("veltrix_end_offset_query_failures_total") == 3
    assert scrape.value("veltrix_fence_longest_pause_seconds") == 4.5
    assert scrape.value("veltrix_fence_limit_seconds") == 9.0


def test_the_ledger_of_a_lane_adds_up_or_shows_a_residue(scrape: Scrape) -> None:
    scrape.engine.statuses = [lane(0, ledger=Ledger(21, 6, 5, 4, 3, 2))]
    outcomes = {"emitted": 6, "duplicate": 5, "dead_lettered": 4, "retried": 3, "dropped": 2}

    for outcome, count in outcomes.items():
        assert scrape.value("veltrix_ledger_outcomes_total", agent=AGENT, partition="0", outcome=outcome) == count
    assert scrape.value("veltrix_ledger_consumed_total", agent=AGENT, partition="0") == 21
    assert scrape.value("veltrix_ledger_residue", agent=AGENT, partition="0") == 1


def test_what_the_topics_of_a_lane_share_is_shown_once(scrape: Scrape) -> None:
    """Prometheus refuses a scrape that holds a sample twice."""
    scrape.engine.statuses = [lane(0), lane(0, topic=RETRY), lane(1)]

    assert scrape.value("veltrix_assigned_partitions") == 2
    assert len(scrape.samples("veltrix_consumer_lag")) == 3
    for name in ("veltrix_ledger_residue", "veltrix_breaker_open", "veltrix_state_keys", "veltrix_lane_paused"):
        assert scrape.samples(name) == [(("agent", AGENT), ("partition", "0")), (("agent", AGENT), ("partition", "1"))]


def test_a_standby_shows_how_far_behind_it_is_once_that_is_known(scrape: Scrape) -> None:
    scrape.engine.copies = [StandbyStatus(LaneId(AGENT, 3), 17), StandbyStatus(LaneId(AGENT, 4), -1)]

    assert scrape.value("veltrix_standby_lag_records", agent=AGENT, partition="3") == 17
    assert scrape.value("veltrix_standby_lag_records", agent=AGENT, partition="4") is None


def test_dead_letters_on_their_way_show_for_how_long(scrape: Scrape) -> None:
    scrape.engine.statuses = [lane(2, dead_letters_wait_s=12.5), lane(3)]

    assert scrape.value("veltrix_dead_letter_write_wait_seconds", agent=AGENT, partition="2") == 12.5
    assert scrape.value("veltrix_dead_letter_write_wait_seconds", agent=AGENT, partition="3") == 0


def test_held_keys_show_how_many_and_for_how_long(scrape: Scrape) -> None:
    since_ms = time.time_ns() // 1_000_000 - 90_000
    scrape.engine.statuses = [lane(2, held=HeldKeys(3, 40, (HeldKey(7, since_ms, 12),))), lane(3)]

    found = {name: scrape.value(f"veltrix_held_{name}", agent=AGENT, partition="2") for name in ("keys", "events")}
    assert found == {"keys": 3, "events": 40}
    assert scrape.value("veltrix_held_oldest_seconds", agent=AGENT, partition="2") == pytest.approx(90, abs=5)
    assert scrape.value("veltrix_held_oldest_seconds", agent=AGENT, partition="3") is None


@pytest.mark.parametrize(("end", "shown"), [(None, []), (LastEnd(123.0, "dead_letters", "no room"), [{"cause": "dead_letters"}])])
def test_how_the_process_before_ended_is_shown_if_it_ended_itself(end: LastEnd | None, shown: list[dict[str, str]]) -> None:
    catalogue = Catalogue(CollectorRegistry())
    LastEndMetrics(catalogue, end)
    samples = [sample for family in catalogue.registry.collect() for sample in family.samples]

    assert [s.labels for s in samples if s.name == "veltrix_last_end_timestamp_seconds"] == shown

"""Watching workers that come, move partitions, fall silent and leave; and how that looks."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.text import Text

from deploy.local.demo_metrics import Counts, Reading
from deploy.local.demo_screen import Screen, clock, plain, redis_state
from deploy.local.demo_state import WorkerRef
from deploy.local.demo_watch import Snapshot, Watch, WorkerView
from deploy.local.ports import free_ports
from tests.deploy.fake_sidecar import FakeSidecar


def test_rates_are_those_of_the_last_five_seconds(fake: Callable[[str], FakeSidecar]) -> None:
    one, watch = fake("worker-1"), Watch()
    for second in range(20):
        one.partitions[0] = second * 100 if second < 10 else 1000 + (second - 10) * 50
        snapshot = watch.look([one.ref], second)

    assert snapshot.counts.consumed == 1450
    assert snapshot.events_per_second == pytest.approx(50)


def test_recent_latency_forgets_a_slow_start_and_the_total_does_not(fake: Callable[[str], FakeSidecar]) -> None:
    one, watch = fake("worker-1"), Watch()
    one.slow = 100
    watch.look([one.ref], 0)
    one.fast = 100
    watch.look([one.ref], 1)
    one.fast = 200
    snapshot = watch.look([one.ref], 10)

    assert snapshot.recent_p99_ms == pytest.approx(9.9)
    assert snapshot.p99_ms == pytest.approx(97.3)


def test_partitions_that_move_are_shown_with_their_new_owner_and_counted_once(fake: Callable[[str], FakeSidecar]) -> None:
    one, two, watch = fake("worker-1"), fake("worker-2"), Watch()
    one.partitions = {0: 10, 1: 20}
    watch.look([one.ref], 0)

    one.partitions, two.partitions = {0: 11}, {1: 21}
    snapshot = watch.look([one.ref, two.ref], 1)

    assert [view.reading.partitions for view in snapshot.workers] == [(0,), (1,)]
    assert snapshot.counts.consumed == 32


def test_what_a_worker_counted_stays_when_it_leaves(fake: Callable[[str], FakeSidecar]) -> None:
    one, two, watch = fake("worker-1"), fake("worker-2"), Watch()
    two.partitions, two.dead_letters, two.fast = {1: 20}, {"oversize": 3}, 20
    watch.look([one.ref, two.ref], 0)

    snapshot = watch.look([one.ref], 1)

    assert (snapshot.counts.consumed, snapshot.dead_letters) == (20, {"oversize": 3})
    assert snapshot.p50_ms == pytest.approx(5.0)
    assert [view.ref.name for view in snapshot.workers] == ["worker-1"]


def test_a_silent_worker_is_shown_and_does_not_break_the_watch(fake: Callable[[str], FakeSidecar]) -> None:
    one, two, watch = fake("worker-1"), fake("worker-2"), Watch()
    new = WorkerRef("worker-3", free_ports(1)[0], os.getpid())
    one.partitions, two.partitions = {0: 5}, {1: 7}
    watch.look([one.ref, two.ref, new], 0)
    two.close()

    snapshot = watch.look([one.ref, two.ref, new], 1)

    assert [view.reading.phase for view in snapshot.workers] == ["running", "unreachable", "starting"]
    assert snapshot.counts.consumed == 12


# -- screen -------------------------------------------------------------------------------------------------------
def rendered(snapshot: Snapshot, status: str = "", width: int = 120) -> str:
    screen = Screen(
        1000, "Ctrl-C stops", {"API": "http://127.0.0.1:8080/docs", "a second worker": "make worker N=2"}, ["export VELTRIX_X=1"]
    )
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(screen.render(snapshot, status))
    return console.export_text()


@pytest.fixture
def snapshot(fake: Callable[[str], FakeSidecar]) -> Snapshot:
    one = fake("worker-1")
    one.partitions, one.dead_letters, one.fast = {0: 1234567, 1: 0, 5: 0}, {"too_far_ahead": 12}, 5
    return Watch().look([one.ref], 65)


def test_the_screen_shows_counts_reasons_owners_and_addresses(snapshot: Snapshot) -> None:
    text = rendered(snapshot)

    for words in (
        "01:05",
        "1,234,567",
        "too_far_ahead",
        "0-1, 5 (3)",
        "running",
        "/docs",
        "make worker N=2",
        "export VELTRIX_X=1",
        "100.00 %",
    ):
        assert words in text


def test_the_screen_says_that_it_is_stopping(snapshot: Snapshot) -> None:
    assert "processing the rest" in rendered(snapshot, "processing the rest")


def test_the_screen_is_readable_before_the_first_event() -> None:
    text = rendered(Watch().look([], 0))

    assert "00:00" in text
    assert "None" not in text


def test_the_screen_fits_a_small_terminal(snapshot: Snapshot) -> None:
    assert max(map(len, rendered(snapshot, width=80).splitlines())) <= 80


def test_a_log_gets_one_line(snapshot: Snapshot) -> None:
    line = plain(snapshot)

    assert "\n" not in line
    assert line.startswith("01:05 ")
    assert "1,234,567 in" in line
    assert line.endswith("worker-1=0-1, 5")


def test_time_is_minutes_and_seconds() -> None:
    assert [clock(0), clock(59.9), clock(3601)] == ["00:00", "00:59", "60:01"]


def test_an_outcome_that_is_missing_is_loud(snapshot: Snapshot) -> None:
    assert "without an outcome" in rendered(snapshot)
    assert Counts.__slots__ == ("consumed", "emitted", "duplicates", "dead_lettered", "residue")


@pytest.mark.parametrize(
    ("lanes", "words"),
    [
        ({}, "off"),
        ({"live": 10, "down": 0}, "live 10/10"),
        ({"live": 9, "catching_up": 1}, "catching up 1/10"),
        ({"live": 4, "rebuilding": 5, "down": 1}, "down 1/10"),
    ],
)
def test_the_worst_state_of_redis_is_shown(lanes: dict[str, int], words: str) -> None:
    views = [WorkerView(WorkerRef("worker-1", 1, 1), Reading(redis_lanes=lanes))]

    assert Text.from_markup(redis_state(views)).plain == words

"""How far a lane is: taken, computed, durable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.engine.api import Failure, Record
from app.engine.compute import Computed
from app.engine.marker import Marker
from app.engine.progress import Progress
from tests.engine.support import SOURCE, event, events, offsets


def unit(*records: Record, emitted: int = 0, duplicates: int = 0, dropped: int = 0, dead: int = 0) -> Computed:
    """A unit of those records with those outcomes."""
    dead_letters = [(records[0], Failure("decode", "bad"))] * dead
    topic = records[0].topic
    return Computed(topic, [*records], dead_letters=dead_letters, emitted=emitted, duplicates=duplicates, dropped=dropped)


def test_nothing_is_durable_before_the_first_unit() -> None:
    progress = Progress(Marker(), -1)
    assert (progress.next_offset(SOURCE), progress.start_offset(SOURCE), progress.changelog_offset) == (-1, -1, -1)


def test_the_marker_counts_outcomes_on_from_the_one_before() -> None:
    progress = Progress(Marker({SOURCE: 3}, {}, 3, 1, 1, 1, 0, 0), 9)
    progress.committed[SOURCE] = 2
    first = progress.advance(unit(*events(3, 6), emitted=1, duplicates=1, dead=1))
    assert first == Marker({SOURCE: 6}, {SOURCE: 2}, 6, 2, 2, 2, 0, 0)
    second = progress.advance(unit(*events(6, 8), dropped=2))
    assert second == Marker({SOURCE: 8}, {SOURCE: 2}, 8, 2, 2, 2, 0, 2)
    assert first.ledger().residue == second.ledger().residue == 0


def test_only_durable_moves_what_may_be_committed() -> None:
    progress = Progress(Marker(), -1)
    first = progress.advance(unit(*events(0, 3), emitted=3))
    second = progress.advance(unit(*events(3, 5), emitted=2))
    assert progress.next_offset(SOURCE) == -1
    assert progress.durable(first, 4) == -1
    assert (progress.next_offset(SOURCE), progress.changelog_offset) == (3, 4)
    assert progress.durable(second, 9) == 4
    assert (progress.next_offset(SOURCE), progress.changelog_offset) == (5, 9)


def test_topics_of_a_lane_have_their_own_positions() -> None:
    progress = Progress(Marker({SOURCE: 3}), 0)
    progress.durable(progress.advance(unit(event(9, topic="retry"), emitted=1)), 1)
    assert (progress.next_offset(SOURCE), progress.next_offset("retry")) == (3, 10)


def test_records_below_the_start_are_not_wanted() -> None:
    progress = Progress(Marker({SOURCE: 2}), 0)
    progress.start_at(SOURCE, 5)
    assert offsets(progress.unseen(events(3, 8))) == [5, 6, 7]
    assert progress.start_offset(SOURCE) == 5


def test_an_empty_fetch_is_nothing_new() -> None:
    assert Progress(Marker(), -1).unseen([]) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10)), max_size=20))
def test_every_offset_is_taken_at_most_once_and_in_order(fetches: list[tuple[int, int]]) -> None:
    progress = Progress(Marker({SOURCE: 4}), 0)
    taken: list[int] = []
    for start, length in fetches:
        taken += offsets(progress.unseen(events(start, start + length)))
    assert taken == sorted(set(taken))
    assert all(offset >= 4 for offset in taken)


@given(st.lists(st.integers(1, 5), max_size=10))
def test_overlapping_fetches_leave_nothing_out(steps: list[int]) -> None:
    progress, taken, end = Progress(Marker(), -1), list[int](), 0
    for step in steps:
        taken += offsets(progress.unseen(events(max(0, end - 3), end + step)))
        end += step
    assert taken == list(range(end))

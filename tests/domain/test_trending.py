"""Who leads: of the newest windows, over all partitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.trending import MOST, Trending, merge, top_of

scores = st.dictionaries(st.integers(0, 400).map(str), st.integers(0, 50), max_size=300)


@given(scores, st.integers(1, 4), st.integers(1, MOST))
def test_the_leaders_of_all_partitions_are_those_of_all_keys(scored: dict[str, int], partitions: int, limit: int) -> None:
    parts = [
        top_of(Trending(), [(60, 120, key, score) for key, score in scored.items() if int(key) % partitions == number])
        for number in range(partitions)
    ]
    expected = sorted(((key, score) for key, score in scored.items() if score), key=lambda pair: (-pair[1], pair[0]))[:limit]
    assert merge(parts, limit).leaders == expected


def test_newer_windows_replace_older_ones_and_older_ones_change_nothing() -> None:
    first = top_of(Trending(), [(60, 120, "a", 5), (0, 60, "z", 99)])
    assert (first.start_ms, first.leaders) == (60, [("a", 5)])
    again = top_of(first, [(60, 120, "b", 7), (60, 120, "a", 6), (0, 60, "z", 99)])
    assert again.leaders == [("b", 7), ("a", 6)], "a revision replaces its score"
    newer = top_of(again, [(120, 180, "c", 1)])
    assert (newer.start_ms, newer.end_ms, newer.leaders) == (120, 180, [("c", 1)])
    assert merge([again, newer], 10).leaders == [("c", 1)], "a partition that is behind has no say"


def test_nobody_leads_nothing() -> None:
    assert merge([], 10) == Trending()
    assert top_of(Trending(), [(0, 60, "a", 0)]).leaders == []

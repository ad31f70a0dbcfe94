"""Totals per event name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.domain.clickstream import OTHER_NAME, TRACK_CODES
from app.domain.totals import MAX_CUSTOM_NAMES, EventTotals, totals_to_json

names = st.lists(st.integers(1, 36) | st.text(max_size=5), max_size=40)


@given(names, names)
def test_adding_in_parts_is_adding_at_once(first: list[int | str], second: list[int | str]) -> None:
    assert EventTotals().plus(first).plus(second) == EventTotals().plus(first + second)


def test_the_value_stays_small_and_nothing_is_lost_however_many_names_there_are() -> None:
    totals = EventTotals().plus(f"custom {n}" for n in range(MAX_CUSTOM_NAMES + 50)).plus(["custom 0", TRACK_CODES["Signed Up"]])
    public = totals_to_json(totals)
    assert len(public) == MAX_CUSTOM_NAMES + 2
    assert (public["custom 0"], public[OTHER_NAME], public["Signed Up"]) == (2, 50, 1)

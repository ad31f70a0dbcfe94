"""What windows want of activities, told by their declarations before anything is read of an event's items."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.activities import Activity, activities_of
from app.domain.activity_keys import Named, category_of, event_of, is_of_names, item_of, names_with_items, only
from app.domain.aggregates import Count, Sum
from app.domain.clickstream import TRACK_CODES, TYPE_CODES
from app.domain.details import Line
from app.domain.session_events import SessionEvent
from app.domain.windows import WindowSpec

VIEWED, LISTED = "Product Viewed", "Product List Viewed"


def is_dear(activity: Activity) -> bool:
    return isinstance(activity.price, int) and activity.price > 5


def units_of(activity: Activity) -> int:
    return activity.units


SPECS = {
    "items_viewed": WindowSpec("items_viewed", 10, key=item_of, where=Named(VIEWED), aggregates={"n": Count()}),
    "categories_of_custom": WindowSpec(
        "categories_of_custom", 10, key=category_of, where=Named("Custom"), aggregates={"n": Count()}
    ),
    "events": WindowSpec("events", 10, key=event_of, aggregates={"n": Count(), "lists": Count(Named(LISTED))}),
    "lists": WindowSpec("lists", 10, key=event_of, where=Named(LISTED), aggregates={"n": Count()}),
    "units_by_event": WindowSpec("units_by_event", 10, key=event_of, where=Named(LISTED), aggregates={"units": Sum(units_of)}),
    "dear_events": WindowSpec("dear_events", 10, key=event_of, where=is_dear, aggregates={"n": Count()}),
    "events_dear": WindowSpec("events_dear", 10, key=event_of, aggregates={"n": Count(is_dear)}),
    "all_items": WindowSpec("all_items", 10, key=item_of, aggregates={"n": Count()}),
}  # type: dict[str, WindowSpec[Activity]]
lines = st.builds(
    Line,
    product_id=st.sampled_from(["a", "b"]),
    quantity=st.integers(1, 3),
    price=st.integers(0, 9),
    category=st.sampled_from([None, "shoes"]),
)
names = st.sampled_from([TRACK_CODES[VIEWED], TRACK_CODES[LISTED], TYPE_CODES["page"], "Custom"])


def results(specs: Sequence[WindowSpec[Activity]], activities: Sequence[Activity]) -> dict[tuple[str, str], list[object]]:
    """What each window of one event comes to."""
    found: dict[tuple[str, str], list[object]] = {}
    for spec in specs:
        key_of = only(spec.key, [spec.where])
        for activity in activities:
            key = key_of(activity)
            if key is not None:
                held = found.setdefault((spec.name, key), [aggregate.initialize() for aggregate in spec.aggregates.values()])
                for at, aggregate in enumerate(spec.aggregates.values()):
                    held[at] = aggregate.add(held[at], activity)
    return found


@given(st.lists(st.sampled_from(sorted(SPECS)), min_size=1, unique=True), names, st.lists(lines, max_size=3))
def test_windows_say_the_same_whether_or_not_items_that_none_of_them_looks_at_are_told_apart(
    declared: list[str], name: int | str, items: list[Line]
) -> None:
    specs = [SPECS[each] for each in declared]
    event = SessionEvent(1, name)
    told = items if name in names_with_items(specs) else ()
    assert results(specs, activities_of(1, "u:1", event, told, 0)) == results(specs, activities_of(1, "u:1", event, items, 0))


def test_items_are_told_apart_for_the_named_events_of_windows_that_look_at_them() -> None:
    wanted = names_with_items([SPECS["items_viewed"], SPECS["categories_of_custom"], SPECS["events"], SPECS["lists"]])
    assert [name in wanted for name in (TRACK_CODES[VIEWED], "Custom", TRACK_CODES[LISTED])] == [True, True, False]
    assert names_with_items([]) == frozenset()


@pytest.mark.parametrize("name", ["units_by_event", "dear_events", "events_dear", "all_items"])
def test_a_window_that_may_look_at_any_item_is_given_them(name: str) -> None:
    spec = SPECS[name]
    assert not is_of_names(spec)
    assert TRACK_CODES[LISTED] in names_with_items([spec])


def test_a_name_means_what_it_means_in_lookups_and_results() -> None:
    def named(name: int | str) -> Activity:
        return Activity(1, 1, 1, name, "u:1")

    where = Named("$page", VIEWED, "Custom")
    assert [where(named(name)) for name in (TYPE_CODES["page"], TRACK_CODES[VIEWED], "Custom", TRACK_CODES[LISTED], "$page")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert only(event_of, [where])(named("Custom")) == "Custom"
    assert only(event_of, [where])(named("Other")) is None

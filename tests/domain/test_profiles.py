"""The fold of one user's events, its stored form and its public form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.clickstream import NAMES, TRACK_CODES, TYPE_CODES
from app.domain.dedupe import Recent
from app.domain.events import Event, Interaction
from app.domain.profiles import (
    LAST_ITEMS,
    MAX_CUSTOM_NAMES,
    MAX_NAME_CHARS,
    UnreadableProfileError,
    UserProfile,
    apply,
    decode_profile,
    to_json,
)

encode = msgspec.msgpack.Encoder().encode


def event(name: str = "Product Viewed", time_ms: int = 1000, items: tuple[str, ...] = (), type_: str = "track") -> Interaction:
    return Interaction(Event(type=type_, message_id="m", event=name), "u:1", b"12345678", time_ms, items)


def profile_of(*interactions: Interaction, received_ms: int = 5000) -> UserProfile:
    profile: UserProfile | None = None
    for interaction in interactions:
        profile = apply(profile, interaction, received_ms, Recent())
    assert profile is not None
    return profile


def counts_of(*interactions: Interaction) -> dict[str, int]:
    counts: dict[str, int] = to_json(profile_of(*interactions))["counts"]
    return counts


@given(st.lists(st.integers(-(2**40), 2**45), min_size=1, max_size=20))
def test_first_and_last_seen_are_the_extremes_in_any_order(times: list[int]) -> None:
    profile = profile_of(*(event(time_ms=time) for time in times))
    assert (profile.first_seen_ms, profile.last_seen_ms, profile.sequence) == (min(times), max(times), len(times))


def test_received_never_goes_back() -> None:
    profile = apply(profile_of(event(), received_ms=5000), event(), 4000, Recent())
    assert profile.received_ms == 5000
    assert apply(profile, event(), 6000, Recent()).received_ms == 6000


def test_applying_an_event_leaves_the_old_profile_as_it_was() -> None:
    before = profile_of(event("Order Completed", items=("a",)))
    raw = encode(before)
    apply(before, event("Order Completed", items=("b",)), 9000, Recent())
    assert encode(before) == raw


def test_events_are_counted_by_name_and_calls_by_type() -> None:
    counts = counts_of(event(), event(), event("mine"), event("", type_="page"), event("ignored", type_="identify"))
    assert counts == {"Product Viewed": 2, "mine": 1, "$page": 1, "$identify": 1}


def test_a_custom_event_named_like_a_call_is_counted_with_it() -> None:
    assert counts_of(event("$page"), event("", type_="page")) == {"$page": 2}


def test_custom_names_are_bounded_and_the_rest_is_counted_together() -> None:
    names = [f"custom {n}" for n in range(MAX_CUSTOM_NAMES + 3)]
    counts = counts_of(*map(event, names), event(names[0]), event("Order Completed"))
    assert counts["$other"] == 3
    assert counts[names[0]] == 2
    assert counts["Order Completed"] == 1
    assert len(counts) == MAX_CUSTOM_NAMES + 2


def test_a_very_long_name_is_counted_with_the_others() -> None:
    fits = "x" * MAX_NAME_CHARS
    assert counts_of(event(fits), event(fits + "x")) == {fits: 1, "$other": 1}


def test_last_items_are_distinct_newest_first_and_bounded() -> None:
    profile = profile_of(event(items=("a",)), event(items=("b", "c")), event(), event(items=("a",)))
    assert profile.last_items == ("a", "c", "b")
    assert profile_of(event(items=tuple("abcdefgh"))).last_items == tuple("hgfed")


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=4).map(tuple), min_size=1, max_size=12))
def test_last_items_equal_the_reversed_distinct_tail(batches: list[tuple[str, ...]]) -> None:
    everything = [item for items in batches for item in items]
    expected = tuple(dict.fromkeys(reversed(everything)))[:LAST_ITEMS]
    assert profile_of(*(event(items=items) for items in batches)).last_items == expected


def test_the_public_form_names_everything_and_hides_the_remembered_ids() -> None:
    assert to_json(profile_of(event(time_ms=7, items=("a",)))) == {
        "sequence": 1,
        "first_seen_ms": 7,
        "last_seen_ms": 7,
        "received_ms": 5000,
        "counts": {"Product Viewed": 1},
        "last_items": ["a"],
    }


def test_a_code_of_a_newer_build_still_shows() -> None:
    unknown = msgspec.structs.replace(profile_of(event()), counts={99: 4})
    assert to_json(unknown)["counts"] == {"$99": 4}


def test_a_stored_profile_reads_back_equal() -> None:
    profile = apply(profile_of(event("mine", items=("a", "b"))), event(), 9000, Recent(b"12345678", 3, 9, 2**64 - 1))
    assert decode_profile(encode(profile)) == profile


#: A value as format version 1 writes it, element by element: this must read for as long as version 1 exists.
STORED_V1: list[Any] = [1, 10, 20, 30, 3, {12: 2, "mine": 1}, ["sku-2", "sku-1"], [b"12345678", 0, 2, 77]]


def test_a_value_of_version_1_stays_readable() -> None:
    profile = decode_profile(encode(STORED_V1))
    assert profile == UserProfile(1, 10, 20, 30, 3, {12: 2, "mine": 1}, ("sku-2", "sku-1"), Recent(b"12345678", 0, 2, 77))
    assert to_json(profile)["counts"] == {"Product Viewed": 2, "mine": 1}


def test_fields_that_a_newer_build_appended_are_left_alone() -> None:
    assert decode_profile(encode([*STORED_V1, "new"])) == decode_profile(encode(STORED_V1))


def test_a_newer_version_is_refused_and_not_misread() -> None:
    with pytest.raises(UnreadableProfileError) as caught:
        decode_profile(encode([2, *STORED_V1[1:]]))
    assert caught.value.version == 2


def test_stored_codes_never_change_their_meaning() -> None:
    assert [NAMES[code] for code in (0, 1, 5, 6, 12, 20, 36)] == [
        "$other", "$page", "$alias", "Products Searched", "Product Viewed", "Order Completed", "Signed Out",
    ]  # fmt: skip
    assert len(NAMES) == 1 + len(TYPE_CODES) + len(TRACK_CODES)

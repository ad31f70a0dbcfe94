"""Activities: what an event says of its items, where it goes, and that it comes back as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.activities import (
    VERSION,
    Activity,
    ActivityBatch,
    Router,
    UnreadableActivities,
    activities_of,
    decode_batch,
    encode_batch,
)
from app.domain.activity_keys import category_of, event_of, item_of
from app.domain.clickstream import TRACK_CODES
from app.domain.details import Line
from app.domain.routing import partition_of
from app.domain.session_events import SessionEvent

KEYS = {"item_of": item_of, "event_of": event_of}
texts = st.text(max_size=12)
activities = st.builds(
    Activity,
    offset=st.integers(0, 2**60),
    time_ms=st.integers(0, 2**48),
    watermark_ms=st.integers(-(2**62), 2**48),
    name=st.integers(0, 40) | texts,
    user=texts,
    item=st.none() | texts,
    units=st.integers(1, 10**6),
    price=st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | texts,
    category=st.none() | texts,
    line=st.integers(0, 200),
)


@given(st.integers(0, 1000), st.integers(-(2**62), 2**48), st.dictionaries(texts, st.lists(activities, max_size=5), max_size=3))
def test_a_batch_comes_back_as_it_was(upstream: int, watermark_ms: int, by_key: dict[str, list[Activity]]) -> None:
    batch = ActivityBatch(VERSION, upstream, watermark_ms, by_key)
    assert decode_batch(encode_batch(batch)) == batch


@pytest.mark.parametrize("raw", [None, b"", b"{}", b"\xc1", encode_batch(ActivityBatch(VERSION + 1, 0, 0, {}))])
def test_what_is_no_batch_of_ours_is_refused_without_its_content(raw: bytes | None) -> None:
    with pytest.raises(UnreadableActivities):
        decode_batch(raw)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=3), max_size=20), st.integers(1, 7))
def test_every_item_of_every_event_goes_to_the_partition_of_its_key_and_the_event_itself_once(
    orders: list[list[str]], partitions: int
) -> None:
    router = Router(KEYS, partitions, upstream=2)
    for offset, items in enumerate(orders):
        for activity in activities_of(offset, "u:1", SessionEvent(1000 + offset, "Bought"), list(map(Line, items)), offset):
            router.add(activity)
    found = {key: [] for key in KEYS}  # type: dict[str, list[tuple[int, str | None]]]
    for partition, batch in router.batches(99, everyone=False):
        assert (batch.upstream, batch.watermark_ms) == (2, 99)
        for key, sent in batch.activities.items():
            assert [a.offset for a in sent] == sorted(a.offset for a in sent)
            for activity in sent:
                name = KEYS[key](activity)
                assert name is not None
                assert partition_of(name.encode(), partitions) == partition
                found[key].append((activity.offset, activity.item))
    assert sorted(found["item_of"], key=str) == sorted(((n, item) for n, items in enumerate(orders) for item in items), key=str)
    assert sorted(offset for offset, _ in found["event_of"]) == list(range(len(orders)))


def test_everyone_is_told_the_watermark_if_that_is_asked_for() -> None:
    router = Router(KEYS, 4, upstream=0)
    assert list(router.batches(5, everyone=False)) == []
    assert [(p, b.watermark_ms, b.activities) for p, b in router.batches(5, everyone=True)] == [(p, 5, {}) for p in range(4)]


def test_names_and_categories_are_those_of_the_event() -> None:
    lines = [Line("sku", quantity=2, price=3, category="shoes"), Line("other")]
    router = Router({"category_of": category_of}, 1, 0)
    for sent in activities_of(7, "u:1", SessionEvent(5, TRACK_CODES["Product Added"]), lines, 1):
        router.add(sent)
    [(_, batch)] = router.batches(1, everyone=False)
    [activity] = batch.activities["category_of"]
    assert (activity.item, activity.units, activity.price, activity.category, activity.line) == ("sku", 2, 3, "shoes", 0)
    assert event_of(activity) == "Product Added"

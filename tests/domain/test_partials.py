"""Windows counted per source partition and added up: the same results as if one had seen all events."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.aggregates import Count, Max, Mean, Sum
from app.domain.estimates import Distinct
from app.domain.partials import Part, PartialFold, decode_partials, local
from app.domain.window_fold import WindowFold
from app.domain.windows import ClosedWindow, KeyWindows, UnreadableWindowsError, WindowSpec, decode_windows

PARTITIONS = 3
BOUND, END = 30, 10_000
Event = tuple[int, int, str]
"""Source partition, time, key"""
encode = msgspec.msgpack.encode


def spec(lateness_ms: int = 0) -> WindowSpec[Event]:
    return WindowSpec(
        "long",
        20,
        hop_ms=10,
        also={"short": 10},
        key=lambda event: event[2],
        aggregates={
            "events": Count(),
            "sum": Sum(lambda event: event[1]),
            "last": Max(lambda event: event[1]),
            "mean": Mean(lambda event: event[1]),
            "times": Distinct(lambda event: str(event[1])),
        },
        allowed_lateness_ms=lateness_ms,
        is_local=True,
    )


class Source:
    """A source partition; its table goes through bytes."""

    def __init__(self, declared: WindowSpec[Event]) -> None:
        self.spec, self.watermark_ms = local(declared), -END
        self.stored: dict[str, bytes] = {}

    def batch(self, events: list[Event], watermark_ms: int = -END) -> list[Part]:
        fold = WindowFold(self.spec, {key: decode_windows(raw) for key, raw in self.stored.items()})
        for event in events:
            self.watermark_ms = max(self.watermark_ms, event[1] - BOUND)
            fold.add(event, event[1], self.watermark_ms)
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        fold.close_all(self.stored, self.watermark_ms)
        _store(self.stored, fold.states())
        return [Part.of(closed) for closed in fold.closed]


class Sink:
    """Downstream; parts and watermarks come in any order between partitions, and again."""

    def __init__(self, declared: WindowSpec[Event]) -> None:
        self.spec, self.watermarks = declared, dict.fromkeys(range(PARTITIONS), -END)
        self.stored: dict[str, bytes] = {}
        self.closed: list[ClosedWindow] = []

    def take(self, upstream: int, parts: list[Part], watermark_ms: int) -> None:
        parts, before_ms = [msgspec.msgpack.decode(encode(part), type=Part) for part in parts], min(self.watermarks.values())
        self.watermarks[upstream] = max(self.watermarks[upstream], watermark_ms)
        fold = PartialFold(self.spec, {key: decode_partials(raw) for key, raw in self.stored.items()})
        for part in parts:
            fold.add(upstream, part, before_ms)
        fold.close_all(self.stored, min(self.watermarks.values()))
        _store(self.stored, fold.states())
        self.closed += fold.closed


def _store(stored: dict[str, bytes], states: dict[str, Any]) -> None:
    for key, state in states.items():
        if state is None:
            stored.pop(key, None)
        else:
            stored[key] = encode(state)


def at_once(declared: WindowSpec[Event], events: list[Event]) -> list[ClosedWindow]:
    """By one who sees all events in the order of time."""
    fold = WindowFold(declared, dict[str, KeyWindows]())
    for event in sorted(events, key=lambda event: event[1]):
        fold.add(event, event[1], -END)
    for key in sorted({event[2] for event in events}):
        fold.close(key, END)
    return sorted(fold.closed, key=_identity)


def _identity(closed: ClosedWindow) -> tuple[str, str, int, int]:
    return closed.name, closed.key, closed.start_ms, closed.revision


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    """Out of order within the bound, per partition."""
    drawn = draw(st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.integers(0, 20), st.sampled_from("ab")), max_size=40))
    return [(partition, 4 * number + at, key) for number, (partition, at, key) in enumerate(drawn)]


@given(streams(), st.integers(0, 2**32), st.booleans())
def test_parts_add_up_to_what_one_who_saw_all_would_publish(events: list[Event], seed: int, repeats: bool) -> None:
    chance, declared = random.Random(seed), spec()
    sources, sink = [Source(declared) for _ in range(PARTITIONS)], Sink(declared)
    queues = {number: [event for event in events if event[0] == number] for number in range(PARTITIONS)}
    while any(queues.values()):
        number = chance.choice([number for number, left in queues.items() if left])
        size = chance.randint(1, 5)
        batch, queues[number] = queues[number][:size], queues[number][size:]
        parts = sources[number].batch(batch)
        for _ in range(1 + (repeats and chance.random() < 0.5)):
            sink.take(number, parts, sources[number].watermark_ms)
    for number, source in enumerate(sources):
        sink.take(number, source.batch([], END), END)
    assert sorted(sink.closed, key=_identity) == at_once(declared, events)
    assert sink.stored == {}, "everything is forgotten in the end"


def test_a_part_that_comes_again_after_its_window_was_forgotten_does_not_bring_it_back() -> None:
    declared = spec()
    one, sink = Source(declared), Sink(declared)
    parts = one.batch([(0, 5, "a")], 50)
    for upstream, told in ((0, parts), (1, []), (2, []), (0, parts)):
        sink.take(upstream, told, 50)
    assert [(closed.name, closed.start_ms, closed.revision) for closed in sink.closed] == [
        ("long", -10, 0),
        ("long", 0, 0),
        ("short", 0, 0),
    ]


def test_a_late_event_corrects_the_sum_with_a_higher_revision() -> None:
    declared = spec(lateness_ms=1000)
    one, sink = Source(declared), Sink(declared)
    sink.take(0, one.batch([(0, 5, "a")], 50), 50)
    for other in (1, 2):
        sink.take(other, [], 50)
    sink.take(0, one.batch([(0, 6, "a")]), 50)
    short = [(closed.revision, closed.results["events"]) for closed in sink.closed if closed.name == "short"]
    assert short == [(0, 1), (1, 2)]


def test_an_older_part_and_one_of_another_declaration_change_nothing() -> None:
    declared, sink = spec(lateness_ms=1000), Sink(spec(lateness_ms=1000))
    one = Source(declared)
    first, second = one.batch([(0, 5, "a")], 50), one.batch([(0, 6, "a")])
    sink.take(0, second, 0)
    sink.take(0, first, 0)
    sink.take(0, [Part("gone", "a", 0, 0, [1])], 0)
    for upstream in range(PARTITIONS):
        sink.take(upstream, [], 60)
    assert {closed.results["events"] for closed in sink.closed if closed.name == "short"} == {2}


def test_nothing_is_published_before_the_last_partition_has_passed_it() -> None:
    declared = spec()
    one, sink = Source(declared), Sink(declared)
    sink.take(0, one.batch([(0, 5, "a")], 50), 50)
    sink.take(1, [], 50)
    assert sink.closed == []
    sink.take(2, [], 10)
    assert [(closed.name, closed.start_ms) for closed in sink.closed] == [("long", -10), ("short", 0)]


def test_stored_parts_of_a_newer_build_are_refused() -> None:
    with pytest.raises(UnreadableWindowsError):
        decode_partials(encode([2, 0, {}]))

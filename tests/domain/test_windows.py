"""Laws of windows: one model, any interleaving, any batches, any crash; each boundary; late events; bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.aggregates import Count, Mean, Ratio, Sum
from app.domain.estimates import Distinct, TopK
from app.domain.watermarks import LatePolicy
from app.domain.window_fold import WindowFold, close, step
from app.domain.windows import NEVER, ClosedWindow, KeyWindows, UnreadableWindowsError, WindowSpec, decode_windows, running_windows

BOUND, END = 15, 10**9
encode = msgspec.msgpack.Encoder().encode


class Seen(NamedTuple):
    time_ms: int
    key: str | None = "k"
    name: str = "view"
    value: int = 1


def spec(size_ms: int = 10, hop_ms: int = 0, lateness_ms: int = 0, late: LatePolicy = LatePolicy.DROP) -> WindowSpec[Seen]:
    return WindowSpec(
        "activity",
        size_ms,
        key=lambda seen: seen.key,
        aggregates={
            "events": Count(),
            "rate": Ratio(Count(lambda seen: seen.name == "add"), Count(lambda seen: seen.name == "view")),
            "sum": Sum(lambda seen: seen.value),
            "mean": Mean(lambda seen: seen.value),
            "names": Distinct(lambda seen: seen.name),
            "top": TopK(lambda seen: seen.name, 2),
        },
        hop_ms=hop_ms,
        allowed_lateness_ms=lateness_ms,
        late=late,
    )


TUMBLING, HOPPING, UNEVEN = spec(), spec(20, 5), spec(15, 10)
LENIENT, LENIENT_HOPPING = spec(10, 0, 12), spec(20, 5, 12)
every_spec = pytest.mark.parametrize(
    "declared",
    [TUMBLING, HOPPING, UNEVEN, LENIENT, LENIENT_HOPPING],
    ids=lambda s: f"{s.size_ms}-{s.hop_ms}-{s.allowed_lateness_ms}",
)


class Table:
    """Keys behind one watermark; every call is a batch, after which all due keys close and state goes through bytes."""

    def __init__(self, declared: WindowSpec[Seen], bound_ms: int = BOUND) -> None:
        self.spec, self.bound_ms, self.watermark_ms = declared, bound_ms, -END
        self.stored: dict[str, bytes] = {}
        self.closed: list[ClosedWindow] = []
        self.late: list[LatePolicy | None] = []

    def batch(self, events: Iterable[Seen], watermark_ms: int = -END) -> list[ClosedWindow]:
        fold = WindowFold(self.spec, self.states())
        for seen in events:
            self.watermark_ms = max(self.watermark_ms, seen.time_ms - self.bound_ms)
            self.late.append(fold.add(seen, seen.time_ms, self.watermark_ms))
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        for key in sorted({*self.stored, "k", "other"}):
            fold.close(key, self.watermark_ms)
        for key, state in fold.states().items():
            if state is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = encode(state)
        self.closed += fold.closed
        return fold.closed

    def states(self) -> dict[str, KeyWindows]:
        return {key: decode_windows(raw) for key, raw in self.stored.items()}


def starts(closed: Iterable[ClosedWindow]) -> list[tuple[int, int, int, int]]:
    return [(window.start_ms, window.end_ms, window.revision, window.results["events"]) for window in closed]


def in_order(closed: Iterable[ClosedWindow]) -> list[ClosedWindow]:
    return sorted(closed, key=lambda window: (window.key, window.start_ms, window.revision))


def batches(stream: Sequence[Seen], cuts: Iterable[int]) -> list[Sequence[Seen]]:
    edges = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


events = st.builds(
    Seen,
    st.integers(0, 120),
    st.sampled_from(["k", "k", "other", None]),
    st.sampled_from(["view", "add", "buy"]),
    st.integers(0, 9),
)


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[Seen], list[Seen]]:
    """The same events twice, each time in an order that keeps every event within the bound."""
    some = draw(st.lists(events, max_size=30))
    jitters = [draw(st.lists(st.integers(0, BOUND), min_size=len(some), max_size=len(some))) for _ in range(2)]
    first, second = ([some[i] for i in sorted(range(len(some)), key=lambda i: some[i].time_ms + jitter[i])] for jitter in jitters)
    return first, second


@every_spec
@given(interleavings())
def test_any_interleaving_within_the_bound_gives_the_same_windows(
    declared: WindowSpec[Seen], orders: tuple[list[Seen], list[Seen]]
) -> None:
    results = []
    for stream in orders:
        table = Table(declared)
        table.batch(stream)
        table.batch([], END)
        assert table.late == [None] * len(stream)
        assert table.stored == {}
        results.append(in_order(table.closed))
    assert results[0] == results[1]
    model: dict[tuple[str, int], list[Seen]] = {}
    for seen in orders[0]:
        for start_ms in range(-declared.size_ms // declared.hop_ms * declared.hop_ms, 130, declared.hop_ms):
            if seen.key is not None and start_ms <= seen.time_ms < start_ms + declared.size_ms:
                model.setdefault((seen.key, start_ms), []).append(seen)
    assert {(w.key, w.start_ms): w.results["events"] for w in results[0]} == {at: len(mine) for at, mine in model.items()}
    for window in results[0]:
        mine = model[window.key, window.start_ms]
        assert window.results["sum"] == sum(seen.value for seen in mine)
        assert window.results["names"] == len({seen.name for seen in mine})
        assert window.revision == 0


disordered = st.lists(events, max_size=40)


@every_spec
@given(disordered, st.lists(st.integers(0, 40), max_size=8))
def test_batches_and_crashes_anywhere_give_the_same_outputs_late_events_included(
    declared: WindowSpec[Seen], stream: list[Seen], cuts: list[int]
) -> None:
    whole, split = Table(declared), Table(declared)
    whole.batch(stream)
    for part in batches(stream, cuts):
        split.batch(part)
    assert split.late == whole.late
    assert in_order(split.closed) == in_order(whole.closed)
    split.batch([], END)
    whole.batch([], END)
    assert in_order(split.closed) == in_order(whole.closed)


@every_spec
@given(disordered)
def test_revisions_count_up_and_the_last_one_has_every_event_that_came_in_time(
    declared: WindowSpec[Seen], stream: list[Seen]
) -> None:
    table, expected = Table(declared), dict[tuple[str, int], int]()
    for seen in stream:
        table.batch([seen])
        for start_ms in declared.starts(seen.time_ms):
            if seen.key is not None and start_ms + declared.size_ms + declared.allowed_lateness_ms > table.watermark_ms:
                expected[seen.key, start_ms] = expected.get((seen.key, start_ms), 0) + 1
    table.batch([], END)
    last: dict[tuple[str, int], ClosedWindow] = {}
    for window in table.closed:
        at = (window.key, window.start_ms)
        assert window.revision == (last[at].revision + 1 if at in last else 0)
        last[at] = window
    assert last.keys() == expected.keys()
    if declared.hop_ms == declared.size_ms:
        assert {at: window.results["events"] for at, window in last.items()} == expected


@every_spec
@given(disordered)
def test_one_event_at_a_time_does_as_a_batch_does_and_leaves_its_input_alone(
    declared: WindowSpec[Seen], stream: list[Seen]
) -> None:
    stream = [seen for seen in stream if seen.key == "k"]
    table, watermark_ms = Table(declared), -END
    state: KeyWindows | None = None
    closed: list[ClosedWindow] = []
    table.batch(stream)
    for seen in stream:
        watermark_ms = max(watermark_ms, seen.time_ms - BOUND)
        before = encode(state)
        after, outputs, _ = step(state, seen, seen.time_ms, watermark_ms, declared)
        assert encode(state) == before
        state, closed = after, closed + outputs
    if state is not None:
        state, outputs = close(state, "k", watermark_ms, declared)
        closed += outputs
    assert closed == table.closed


@every_spec
@given(disordered, st.integers(0, 60))
def test_open_panes_are_at_most_the_stated_number(declared: WindowSpec[Seen], stream: list[Seen], reach_ms: int) -> None:
    table = Table(declared, reach_ms)
    for seen in stream:
        table.batch([seen])
        for state in table.states().values():
            assert len(state.panes) <= declared.max_panes(reach_ms)
            assert revisions_of(state) <= (declared.size_ms + declared.allowed_lateness_ms) // declared.hop_ms + 1


def revisions_of(state: KeyWindows) -> int:
    """How many windows it remembers to have published."""
    return sum(map(len, state.revisions.values()))


@every_spec
@given(disordered)
def test_the_due_time_is_the_first_watermark_that_changes_anything(declared: WindowSpec[Seen], stream: list[Seen]) -> None:
    table = Table(declared)
    table.batch(stream)
    for key, state in table.states().items():
        assert state.due_ms > table.watermark_ms
        assert close(state, key, state.due_ms - 1, declared) == (state, [])
        after, closed = close(state, key, state.due_ms, declared)
        assert closed or after is None or revisions_of(after) < revisions_of(state)


@pytest.mark.parametrize(("time_ms", "start_ms"), [(9, 0), (10, 10), (19, 10), (20, 20)])
def test_a_window_holds_its_start_and_not_its_end(time_ms: int, start_ms: int) -> None:
    table = Table(TUMBLING)
    table.batch([Seen(time_ms)])
    assert starts(table.batch([], END)) == [(start_ms, start_ms + 10, 0, 1)]


@pytest.mark.parametrize(("watermark_ms", "closed"), [(19, 0), (20, 1)])
def test_a_window_closes_when_the_watermark_is_exactly_its_end(watermark_ms: int, closed: int) -> None:
    table = Table(TUMBLING)
    table.batch([Seen(15)])
    assert len(table.batch([], watermark_ms)) == closed


@pytest.mark.parametrize(
    ("time_ms", "declared", "expected"),
    [
        (0, HOPPING, [-15, -10, -5, 0]),
        (4, HOPPING, [-15, -10, -5, 0]),
        (5, HOPPING, [-10, -5, 0, 5]),
        (4, UNEVEN, [-10, 0]),
        (5, UNEVEN, [0]),
        (14, UNEVEN, [0, 10]),
        (15, UNEVEN, [10]),
    ],
)
def test_a_time_lies_in_each_hop_that_covers_it(time_ms: int, declared: WindowSpec[Seen], expected: list[int]) -> None:
    assert list(declared.starts(time_ms)) == expected
    table = Table(declared)
    table.batch([Seen(time_ms)])
    assert [start_ms for start_ms, *_ in starts(table.batch([], END))] == expected


@pytest.mark.parametrize(("watermark_ms", "is_late"), [(19, False), (20, True), (END, True)])
def test_without_lateness_an_event_is_late_when_its_window_has_closed(watermark_ms: int, is_late: bool) -> None:
    table = Table(TUMBLING)
    table.batch([], watermark_ms)
    table.batch([Seen(15)])
    assert table.late == [LatePolicy.DROP if is_late else None]


@pytest.mark.parametrize(("watermark_ms", "is_late"), [(31, False), (32, True)])
def test_with_lateness_an_event_is_late_when_that_is_over_too(watermark_ms: int, is_late: bool) -> None:
    table = Table(LENIENT)
    table.batch([Seen(14)])
    table.batch([], watermark_ms)
    table.batch([Seen(15)])
    assert table.late[-1] == (LatePolicy.DROP if is_late else None)
    assert starts(table.closed) == [(10, 20, 0, 1)] + ([] if is_late else [(10, 20, 1, 2)])


def test_a_replayed_old_event_does_not_bring_a_closed_window_back() -> None:
    table = Table(HOPPING)
    table.batch([Seen(3)])
    table.batch([], 1000)
    assert table.stored == {}
    assert table.batch([Seen(3)] * 3) == []
    assert table.stored == {}
    assert table.late == [None, *[LatePolicy.DROP] * 3]


def test_an_event_that_is_late_for_some_windows_counts_in_the_others() -> None:
    table = Table(HOPPING)
    table.batch([], 12)
    assert table.batch([Seen(3)]) == []
    assert starts(table.batch([], END)) == [(-5, 15, 0, 1), (0, 20, 0, 1)]


def test_a_dead_letter_policy_says_so_and_late_events_are_counted() -> None:
    fold = WindowFold(spec(late=LatePolicy.DEAD_LETTER), {})
    assert fold.add(Seen(5), 5, 10) is LatePolicy.DEAD_LETTER
    assert fold.late == 1
    assert fold.states() == {"k": None}


def test_a_rate_of_two_counts_is_one_declaration() -> None:
    table = Table(spec(60, 10))
    table.batch([Seen(61, name="view"), Seen(62, name="view"), Seen(63, name="view"), Seen(64, name="add")])
    [window, *_] = table.batch([], 70)
    assert window.results == {"events": 4, "rate": 1 / 3, "sum": 4, "mean": 1.0, "names": 2, "top": [["view", 3], ["add", 1]]}


def test_an_event_without_a_key_is_left_out() -> None:
    fold = WindowFold(TUMBLING, {})
    assert fold.add(Seen(5, None), 5, 0) is None
    assert fold.states() == {}
    assert step(None, Seen(5, None), 5, 0, TUMBLING) == (None, [], None)


def test_a_batch_does_not_change_stored_values() -> None:
    stored = KeyWindows()
    for seen in (Seen(5), Seen(6), Seen(16)):
        before = encode(stored)
        fold = WindowFold(LENIENT_HOPPING, {"k": stored})
        fold.add(seen, seen.time_ms, 0)
        fold.close("k", 5)
        after = fold.states()["k"]
        assert encode(stored) == before
        assert after is not None
        stored = after
    assert stored.due_ms < NEVER


@pytest.mark.parametrize(("size_ms", "hop_ms"), [(0, 0), (-1, 0), (10, 11), (10, -5)])
def test_a_spec_that_leaves_gaps_or_holds_nothing_is_refused(size_ms: int, hop_ms: int) -> None:
    with pytest.raises(ValueError, match="activity"):
        spec(size_ms, hop_ms)


def test_stored_windows_of_a_newer_build_are_refused() -> None:
    with pytest.raises(UnreadableWindowsError):
        decode_windows(encode(KeyWindows(version=2)))


@pytest.mark.parametrize("lateness_ms", [0, 12])
@pytest.mark.parametrize(("size_ms", "hop_ms", "short_ms"), [(50, 10, 10), (20, 5, 15), (15, 10, 12)])
@given(disordered, st.lists(st.integers(0, 20), max_size=4))
def test_shorter_windows_from_the_same_panes_are_as_if_they_were_declared_alone(
    size_ms: int, hop_ms: int, short_ms: int, lateness_ms: int, stream: list[Seen], cuts: list[int]
) -> None:
    both = Table(replace(spec(size_ms, hop_ms, lateness_ms), also={"short": short_ms}))
    longer, shorter = Table(spec(size_ms, hop_ms, lateness_ms)), Table(replace(spec(short_ms, hop_ms, lateness_ms), name="short"))
    for part in batches(stream, cuts):
        for table in (both, longer, shorter):
            table.batch(part)
    for table in (both, longer, shorter):
        table.batch([], END)
    found = {name: [window for window in both.closed if window.name == name] for name in ("activity", "short")}
    assert in_order(found["activity"]) == in_order(longer.closed)
    assert in_order(found["short"]) == in_order(shorter.closed)
    assert both.stored == {}, "everything is forgotten in the end"


@pytest.mark.parametrize("also", [{"a": 10}, {"a": 20}, {"a": 4}])
def test_windows_besides_are_shorter_and_no_shorter_than_the_hop(also: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="shorter windows"):
        replace(spec(10, 5), also=also)


def test_running_windows_are_shown_by_output_the_latest_first() -> None:
    declared = replace(spec(20, 10), also={"short": 10})
    table = Table(declared)
    table.batch([Seen(25), Seen(32)])
    [state] = table.states().values()
    shown = running_windows(declared, state)
    assert {name: [(w["start_ms"], w["results"]["events"]) for w in rows] for name, rows in shown.items()} == {
        "activity": [(30, 1), (20, 2), (10, 1)],
        "short": [(30, 1), (20, 1)],
    }

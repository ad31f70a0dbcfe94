"""Laws of sessions: one model, any interleaving, any batches, any crash; each boundary; late events; bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.clickstream import OTHER_NAME, TYPE_CODES
from app.domain.session_events import ORDER_COMPLETED, NameCode, Order, SessionEvent
from app.domain.session_fold import SessionFold, close, step
from app.domain.session_parts import MAX_CUSTOM_NAMES, MAX_PRODUCTS
from app.domain.sessions import NEVER, ClosedSession, SessionPolicy, UnreadableSessionsError, UserSessions, decode_sessions
from app.domain.watermarks import LatePolicy

GAP, LENGTH, BOUND = 10, 40, 15
POLICY = SessionPolicy(GAP, LENGTH)
LENIENT = SessionPolicy(GAP, LENGTH, allowed_lateness_ms=20)
PAGE = TYPE_CODES["page"]
END = 10**9

encode = msgspec.msgpack.Encoder().encode


def at(time_ms: int, name: NameCode = PAGE, page: str | None = None, order: Order | None = None) -> SessionEvent:
    return SessionEvent(time_ms, name, page, order is not None, order)


class User:
    """One user's sessions behind a watermark; every call is a batch, and state goes through bytes between them."""

    def __init__(self, policy: SessionPolicy = POLICY, bound_ms: int = BOUND) -> None:
        self.policy, self.bound_ms = policy, bound_ms
        self.watermark_ms = -END
        self.stored: bytes | None = None
        self.closed: list[ClosedSession] = []
        self.late: list[LatePolicy | None] = []

    @property
    def state(self) -> UserSessions:
        return UserSessions() if self.stored is None else decode_sessions(self.stored)

    def batch(self, events: Iterable[SessionEvent], watermark_ms: int | None = None) -> list[ClosedSession]:
        fold = SessionFold(self.policy, {} if self.stored is None else {"u:1": self.state})
        for event in events:
            self.watermark_ms = max(self.watermark_ms, event.time_ms - self.bound_ms)
            self.late.append(fold.add("u:1", event, self.watermark_ms))
        self.watermark_ms = max(self.watermark_ms, -END if watermark_ms is None else watermark_ms)
        fold.close("u:1", self.watermark_ms)
        states = fold.states()
        if "u:1" in states:
            state = states["u:1"]
            self.stored = None if state is None else encode(state)
        self.closed += fold.closed
        return fold.closed


def spans(closed: Iterable[ClosedSession]) -> list[tuple[int, int, int]]:
    return [(session.start_ms, session.end_ms, session.events) for session in closed]


def expected_spans(times: Sequence[int]) -> list[tuple[int, int, int]]:
    """The definition, over all events at once: split at gaps, then into pairs of cells from the first."""
    sessions: list[list[int]] = []
    for time_ms in sorted(times):
        cell = time_ms // (LENGTH // 2)
        if sessions and time_ms - sessions[-1][-1] < GAP and cell < sessions[-1][0] // (LENGTH // 2) + 2:
            sessions[-1].append(time_ms)
        else:
            sessions.append([time_ms])
    return [(session[0], session[-1], len(session)) for session in sessions]


pages = st.none() | st.sampled_from(["/", "/a", "/b"])
orders = st.none() | st.builds(Order, st.integers(0, 10**6), st.dictionaries(st.sampled_from("xyz"), st.integers(1, 3), max_size=2))
names = st.sampled_from([PAGE, ORDER_COMPLETED, "custom", "other"])
events = st.builds(at, st.integers(0, 200), names, pages, orders)


@st.composite
def interleavings(draw: st.DrawFn) -> tuple[list[SessionEvent], list[SessionEvent]]:
    """The same events twice, each time in an order that keeps every event within the bound."""
    some = draw(st.lists(events, max_size=30))
    jitters = [draw(st.lists(st.integers(0, BOUND), min_size=len(some), max_size=len(some))) for _ in range(2)]
    first, second = ([some[i] for i in sorted(range(len(some)), key=lambda i: some[i].time_ms + jitter[i])] for jitter in jitters)
    return first, second


def batches(stream: Sequence[SessionEvent], cuts: Iterable[int]) -> list[Sequence[SessionEvent]]:
    edges = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(interleavings())
def test_any_interleaving_within_the_bound_gives_the_same_sessions(orders: tuple[list[SessionEvent], list[SessionEvent]]) -> None:
    results = []
    for stream in orders:
        user = User()
        user.batch(stream)
        user.batch([], END)
        assert user.late == [None] * len(stream)
        assert user.state.parts == []
        results.append(sorted(user.closed, key=lambda session: session.start_ms))
    assert results[0] == results[1]
    assert spans(results[0]) == expected_spans([event.time_ms for event in orders[0]])
    assert all(session.revision == 0 and session.session_ms == session.start_ms for session in results[0])


@given(interleavings())
def test_sessions_hold_what_their_events_say(orders: tuple[list[SessionEvent], list[SessionEvent]]) -> None:
    stream, user = orders[0], User()
    user.batch(stream)
    user.batch([], END)
    for session in user.closed:
        mine = [event for event in stream if session.start_ms <= event.time_ms <= session.end_ms]
        orders_of = [event.order for event in mine if event.order is not None]
        with_page = sorted((event.time_ms, event.page) for event in mine if event.page is not None)
        assert sum(session.counts.values()) == session.events == len(mine)
        assert (session.orders, session.revenue_micros) == (len(orders_of), sum(order.revenue for order in orders_of))
        assert session.products == dict(sum((Counter(order.units) for order in orders_of), Counter()))
        assert session.units == sum(session.products.values())
        assert session.is_converted == bool(orders_of)
        assert session.entry_page == (with_page[0][1] if with_page else None)
        assert session.exit_page == (with_page[-1][1] if with_page else None)
        assert session.end_ms - session.start_ms < LENGTH


disordered = st.lists(events, max_size=40)


@given(disordered, st.lists(st.integers(0, 40), max_size=8), st.sampled_from([POLICY, LENIENT]))
def test_batches_and_crashes_anywhere_give_the_same_outputs_and_state_late_events_included(
    stream: list[SessionEvent], cuts: list[int], policy: SessionPolicy
) -> None:
    whole, split = User(policy), User(policy)
    whole.batch(stream)
    for part in batches(stream, cuts):
        split.batch(part)
    assert (split.closed, split.late) == (whole.closed, whole.late)
    assert split.state == whole.state


@given(disordered, st.lists(st.integers(0, 40), max_size=4))
def test_what_is_published_last_covers_every_event_that_was_not_late_once(stream: list[SessionEvent], cuts: list[int]) -> None:
    user = User(LENIENT)
    for part in batches(stream, cuts):
        user.batch(part)
    user.batch([], END)
    final: dict[int, ClosedSession] = {}
    for session in user.closed:
        assert session.revision == (final[session.session_ms].revision + 1 if session.session_ms in final else 0)
        final[session.session_ms] = session
    void = [session for session in final.values() if session.merged_into_ms is not None]
    assert sum(session.events for session in final.values()) == user.late.count(None)
    assert all(session.events == 0 and session.merged_into_ms in final for session in void)


@given(disordered)
def test_one_event_at_a_time_does_as_a_batch_does_and_leaves_its_input_alone(stream: list[SessionEvent]) -> None:
    user, watermark_ms = User(LENIENT), -END
    state: UserSessions | None = None
    closed: list[ClosedSession] = []
    late: list[LatePolicy | None] = []
    user.batch(stream)
    for event in stream:
        watermark_ms = max(watermark_ms, event.time_ms - BOUND)
        before = None if state is None else encode(state)
        after, outputs, refused = step(state, "u:1", event, watermark_ms, LENIENT)
        assert before == (None if state is None else encode(state))
        state, closed, late = after, closed + outputs, [*late, refused]
    if state is not None:
        state, outputs = close(state, "u:1", watermark_ms, LENIENT)
        closed += outputs
    assert (closed, late) == (user.closed, user.late)
    assert (state or UserSessions()) == user.state


@given(st.lists(events, max_size=60), st.integers(1, 60))
def test_open_parts_are_bounded_by_reach_and_gap(stream: list[SessionEvent], reach_ms: int) -> None:
    """A part is kept while its end is ahead of the watermark: the parts of a span are at least a gap or a cell apart."""
    user = User(LENIENT, reach_ms)
    for event in stream:
        user.batch([event])
        span_ms = GAP + LENGTH + LENIENT.allowed_lateness_ms + reach_ms
        assert len(user.state.parts) <= span_ms // GAP + 2


@given(disordered)
def test_the_due_time_is_the_first_watermark_that_changes_anything(stream: list[SessionEvent]) -> None:
    user = User(LENIENT)
    user.batch(stream)
    state = user.state
    if state.parts:
        assert close(state, "u:1", state.due_ms - 1, LENIENT) == (state, [])
        after, closed = close(state, "u:1", state.due_ms, LENIENT)
        assert closed or after is None or len(after.parts) < len(state.parts)
    else:
        assert state.due_ms == NEVER


@pytest.mark.parametrize(("distance", "sessions"), [(GAP - 1, 1), (GAP, 2), (GAP + 1, 2)])
def test_events_exactly_one_gap_apart_are_two_sessions(distance: int, sessions: int) -> None:
    user = User()
    user.batch([at(0), at(distance)])
    user.batch([], END)
    assert len(user.closed) == sessions


@pytest.mark.parametrize(("watermark_ms", "closed"), [(GAP - 1, 0), (GAP, 1)])
def test_a_session_closes_when_the_watermark_is_exactly_its_last_event_plus_the_gap(watermark_ms: int, closed: int) -> None:
    user = User()
    user.batch([at(0)])
    assert len(user.batch([], watermark_ms)) == closed


def test_an_event_at_exactly_the_watermark_that_closed_a_session_starts_the_next() -> None:
    user = User(bound_ms=0)
    user.batch([at(0), at(GAP)])
    user.batch([], END)
    assert spans(user.closed) == [(0, 0, 1), (GAP, GAP, 1)]


def test_an_event_that_bridges_two_sessions_makes_them_one() -> None:
    user = User()
    user.batch([at(0), at(12), at(6)])
    user.batch([], END)
    assert spans(user.closed) == [(0, 12, 3)]


def test_an_event_exactly_between_at_gap_distance_bridges_nothing() -> None:
    user = User(bound_ms=30)
    user.batch([at(20 * 2), at(20 * 2 + 2 * GAP - 1), at(20 * 2 + GAP)])
    user.batch([], END)
    assert spans(user.closed) == [(40, 40, 1), (50, 59, 2)]


def test_a_session_that_never_pauses_is_cut_below_the_maximum_length_and_before_it_ends() -> None:
    user = User()
    user.batch([at(time_ms) for time_ms in range(25, 200, 5)])
    assert spans(user.closed)[:2] == [(25, 55, 7), (60, 95, 8)]
    assert all(session.is_cut and session.end_ms - session.start_ms < LENGTH for session in user.closed)


@pytest.mark.parametrize("start_ms", range(LENGTH // 2))
def test_a_session_shorter_than_half_the_maximum_is_never_cut(start_ms: int) -> None:
    user = User()
    user.batch([at(start_ms + shift) for shift in range(0, LENGTH // 2 + 1, 5)])
    user.batch([], END)
    assert spans(user.closed) == [(start_ms, start_ms + LENGTH // 2, 5)]


@pytest.mark.parametrize(("watermark_ms", "is_late"), [(GAP - 1, False), (GAP, True)])
def test_without_lateness_an_event_is_late_when_its_own_gap_is_over(watermark_ms: int, is_late: bool) -> None:
    user = User()
    user.batch([], watermark_ms)
    user.batch([at(0)])
    assert user.late == [LatePolicy.DROP if is_late else None]


@pytest.mark.parametrize(("watermark_ms", "is_late"), [(GAP + 19, False), (GAP + 20, True)])
def test_with_lateness_an_event_is_late_when_that_is_over_too(watermark_ms: int, is_late: bool) -> None:
    user = User(LENIENT)
    user.batch([], watermark_ms)
    user.batch([at(0)])
    assert user.late == [LatePolicy.DROP if is_late else None]


def test_an_old_event_inside_an_open_session_is_counted() -> None:
    user = User()
    user.batch([at(time_ms) for time_ms in (21, 27, 33, 39)])
    user.batch([at(22)], 38)
    user.batch([at(23)])
    user.batch([], END)
    assert spans(user.closed) == [(21, 39, 6)]


def test_a_late_event_publishes_the_next_revision_under_the_first_start() -> None:
    user = User(LENIENT)
    user.batch([at(105)], 115)
    user.batch([at(101)])
    user.batch([at(114)])
    assert [(s.session_ms, s.revision, s.start_ms, s.end_ms, s.events) for s in user.closed] == [
        (105, 0, 105, 105, 1),
        (105, 1, 101, 105, 2),
    ]
    assert user.batch([], 123) == []
    [again] = user.batch([], 124)
    assert (again.session_ms, again.revision, again.start_ms, again.end_ms, again.events) == (105, 2, 101, 114, 3)


def test_a_closed_session_is_forgotten_after_the_lateness_and_not_before() -> None:
    user = User(LENIENT)
    user.batch([at(100)], 110)
    user.batch([], 129)
    assert len(user.state.parts) == 1
    assert user.batch([], 130) == []
    assert user.stored is None


def test_a_late_event_that_bridges_published_sessions_voids_the_later_one() -> None:
    user = User(LENIENT)
    user.batch([at(100), at(112)], 122)
    user.batch([at(106)])
    assert [(s.session_ms, s.revision, s.events, s.merged_into_ms) for s in user.closed] == [
        (100, 0, 1, None),
        (112, 0, 1, None),
        (112, 1, 0, 100),
        (100, 1, 3, None),
    ]


def test_a_voided_session_leaves_no_revision_behind() -> None:
    user = User(SessionPolicy(GAP, LENGTH, allowed_lateness_ms=60))
    user.batch([at(100), at(112), at(118), at(121)], 131)
    user.batch([at(119)])
    user.batch([at(106)])
    assert [(s.session_ms, s.revision, s.events, s.merged_into_ms) for s in user.closed] == [
        (100, 0, 1, None),
        (112, 0, 3, None),
        (112, 1, 4, None),
        (112, 2, 0, 100),
        (100, 1, 6, None),
    ]


def test_a_late_event_inside_a_published_session_is_published_at_once() -> None:
    user = User(LENIENT)
    user.batch([at(100), at(108)], 118)
    assert [(s.revision, s.events) for s in user.batch([at(104), at(109)])] == [(1, 3)]
    assert [(s.revision, s.events) for s in user.batch([], 119)] == [(2, 4)]


def test_a_late_event_between_sessions_of_different_first_cells_joins_the_earlier_and_bridges_nothing() -> None:
    user = User(SessionPolicy(GAP, LENGTH, allowed_lateness_ms=60))
    user.batch([at(95), at(103), at(115)], 125)
    user.batch([at(109)])
    assert [(s.session_ms, s.revision, s.events) for s in user.closed] == [(95, 0, 2), (115, 0, 1), (95, 1, 3)]


@given(st.permutations(["/a", "/b", "/c"]))
def test_of_pages_at_the_same_time_the_least_is_the_entry_and_the_greatest_the_exit(paths: list[str]) -> None:
    user = User()
    user.batch([at(0, page=path) for path in paths])
    [session] = user.batch([], END)
    assert (session.entry_page, session.exit_page) == ("/a", "/c")


def test_a_late_event_never_moves_a_published_cut() -> None:
    user = User(SessionPolicy(GAP, LENGTH, allowed_lateness_ms=50))
    user.batch([at(time_ms) for time_ms in range(42, 96, 6)], 81)
    assert spans(user.closed) == [(42, 78, 7)]
    user.batch([at(38), at(79)])
    user.batch([], END)
    assert [(s.session_ms, s.revision, s.events) for s in user.closed] == [(42, 0, 7), (38, 0, 1), (42, 1, 8), (84, 0, 2)]


def test_a_dead_letter_policy_says_so() -> None:
    user = User(SessionPolicy(GAP, LENGTH, late=LatePolicy.DEAD_LETTER))
    user.batch([], 1000)
    user.batch([at(0)])
    assert user.late == [LatePolicy.DEAD_LETTER]


def test_late_events_are_counted_and_change_nothing() -> None:
    fold = SessionFold(POLICY, {})
    assert fold.add("u:1", at(0), 1000) is LatePolicy.DROP
    assert (fold.late, fold.closed, fold.states()) == (1, [], {"u:1": None})


@given(st.permutations(range(60)))
def test_bounded_mappings_are_exact_and_the_same_in_any_order(order: list[int]) -> None:
    user = User()
    user.batch([at(0, f"custom {number:02}", order=Order(1, {f"p{number:02}": 2})) for number in order])
    [session] = user.batch([], END)
    listed = {f"custom {number:02}": 1 for number in range(MAX_CUSTOM_NAMES)}
    assert session.counts == {**listed, OTHER_NAME: 60 - MAX_CUSTOM_NAMES}
    assert session.products == {f"p{number:02}": 2 for number in range(MAX_PRODUCTS)}
    assert (session.units, session.orders) == (120, 60)


def test_users_do_not_share_sessions() -> None:
    fold = SessionFold(POLICY, {})
    for user in ("u:1", "u:2"):
        fold.add(user, at(0), -BOUND)
    fold.close("u:1", END)
    fold.close("u:3", END)
    states = fold.states()
    assert [session.user for session in fold.closed] == ["u:1"]
    assert states["u:1"] is None
    assert states["u:2"] is not None
    assert set(states) == {"u:1", "u:2"}


@pytest.mark.parametrize(("gap_ms", "length_ms"), [(0, 10), (-1, 10), (10, 19)])
def test_a_policy_that_cannot_hold_is_refused(gap_ms: int, length_ms: int) -> None:
    with pytest.raises(ValueError, match="at least twice"):
        SessionPolicy(gap_ms, length_ms)


def test_stored_sessions_of_a_newer_build_are_refused() -> None:
    with pytest.raises(UnreadableSessionsError):
        decode_sessions(encode(UserSessions(version=2)))

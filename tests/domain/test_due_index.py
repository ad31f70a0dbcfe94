"""Laws of the due index: whoever asks it closes exactly what asking every key would close."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.due_index import DueIndex
from app.domain.session_events import SessionEvent
from app.domain.session_fold import SessionFold
from app.domain.sessions import ClosedSession, SessionPolicy, UserSessions

USERS = ("u:a", "u:b", "u:c")


@pytest.mark.parametrize(("watermark_ms", "due"), [(9, []), (10, ["a"])])
def test_a_key_is_due_at_exactly_its_time(watermark_ms: int, due: list[str]) -> None:
    assert DueIndex([("a", 10)]).due(watermark_ms) == due


def test_keys_come_once_sorted_and_leave() -> None:
    index = DueIndex([("b", 1), ("a", 2), ("c", 3)])
    assert index.due(2) == ["a", "b"]
    assert index.due(2) == []
    assert len(index) == 1


def test_a_later_note_does_not_move_a_key_and_an_earlier_one_does() -> None:
    index = DueIndex()
    index.note("a", 10)
    index.note("a", 20)
    assert index.due(10) == ["a"]
    index.note("a", 20)
    index.note("a", 15)
    assert index.due(15) == ["a"]
    assert (index.due(100), len(index)) == ([], 0)


class Partition:
    """Users of one partition; closes after each batch what its index names, or everybody when it has none."""

    def __init__(self, policy: SessionPolicy, index: DueIndex[str] | None) -> None:
        self.policy, self.index = policy, index
        self.states: dict[str, UserSessions] = {}

    def batch(self, events: list[tuple[str, int]], watermark_ms: int) -> list[ClosedSession]:
        fold = SessionFold(self.policy, self.states)
        for user, time_ms in events:
            fold.add(user, SessionEvent(time_ms, 1), watermark_ms)
        touched = {user for user, _ in events}
        named = set(USERS if self.index is None else self.index.due(watermark_ms))
        for user in sorted(touched | named):
            fold.close(user, watermark_ms)
        for user, state in fold.states().items():
            if state is None:
                self.states.pop(user, None)
            else:
                self.states[user] = state
        for user in touched.union(named):
            if self.index is not None and user in self.states:
                self.index.note(user, self.states[user].due_ms)
        return fold.closed

    def restart(self) -> None:
        self.index = DueIndex((user, state.due_ms) for user, state in self.states.items())


steps = st.lists(
    st.tuples(st.lists(st.tuples(st.sampled_from(USERS), st.integers(-20, 20)), max_size=4), st.integers(0, 12)), max_size=15
)


@given(steps, st.sampled_from([0, 15]), st.integers(0, 15))
def test_closing_what_is_due_is_closing_everything_and_a_restart_does_not_matter(
    batches: list[tuple[list[tuple[str, int]], int]], lateness_ms: int, restart_at: int
) -> None:
    policy = SessionPolicy(10, 40, lateness_ms)
    everyone, indexed, watermark_ms = Partition(policy, None), Partition(policy, DueIndex()), 1000
    for number, (relative, advance_ms) in enumerate(batches):
        watermark_ms += advance_ms
        events = [(user, watermark_ms + shift_ms) for user, shift_ms in relative]
        assert indexed.batch(events, watermark_ms) == everyone.batch(events, watermark_ms)
        assert indexed.states == everyone.states
        if number == restart_at:
            indexed.restart()
        assert all(state.due_ms > watermark_ms for state in indexed.states.values())

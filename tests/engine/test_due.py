"""Keys by the time they are due: told once by runs that count, again after runs that do not, and never forgotten."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import state as module
from app.engine.api import View
from app.engine.state import LaneState, Stage
from app.engine.store import PartitionStore

#: The value is the time from which on it is due.
DUES: View[int] = View("dues", b"d", lambda due: b"%d" % due, int, due_ms=lambda due: due)


def accept(state: LaneState, stage: Stage) -> None:
    state.accept(stage, stage.encode())


def put(state: LaneState, **values: int) -> None:
    """A run that writes these and counts."""
    stage = state.stage()
    for key, due in values.items():
        stage.view(DUES).put(key, due)
    accept(state, stage)


def told(state: LaneState, watermark_ms: int) -> list[str]:
    """What a run is told that deletes all of it and counts."""
    stage = state.stage()
    view = stage.view(DUES)
    keys = view.due(watermark_ms)
    for key in keys:
        view.delete(key)
    accept(state, stage)
    return keys


def test_the_index_is_built_from_what_is_stored(store: PartitionStore) -> None:
    store.apply({DUES.raw_key(f"k{n}"): b"%d" % n for n in range(2500)}, 0)
    state = LaneState(store, 10, (DUES,))
    assert told(state, 3) == ["k0", "k1", "k2", "k3"]
    assert told(state, 3) == []


def test_a_key_is_told_when_its_newest_value_is_due(store: PartitionStore) -> None:
    state = LaneState(store, 10, (DUES,))
    put(state, a=5, b=9)
    put(state, a=7)
    assert told(state, 6) == ["a"], "told early: the index knows no later time than the first"
    put(state, a=7)
    assert (told(state, 6), told(state, 7), told(state, 9)) == ([], ["a"], ["b"])


def test_what_a_run_was_told_and_left_alone_is_told_again_when_it_is_due(store: PartitionStore) -> None:
    state = LaneState(store, 10, (DUES,))
    put(state, a=5)
    put(state, a=8)
    stage = state.stage()
    assert stage.view(DUES).due(5) == ["a"]
    accept(state, stage)
    assert state.stage().view(DUES).due(7) == []
    assert told(state, 8) == ["a"]


def test_a_run_that_is_thrown_away_gives_back_what_it_was_told(store: PartitionStore) -> None:
    state = LaneState(store, 10, (DUES,))
    put(state, a=1, b=2)
    stage = state.stage()
    view = stage.view(DUES)
    assert view.due(5) == ["a", "b"]
    view.delete("a")
    state.discard(stage)
    assert told(state, 5) == ["a", "b"]


def test_a_bounded_number_is_told_and_the_rest_is_known_to_be_left(store: PartitionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_DUE", 4)
    state = LaneState(store, 100, (DUES,))
    state.most_due = 4
    put(state, **{f"k{n}": n for n in range(6)})
    assert (told(state, 10), state.is_due_left) == (["k0", "k1", "k2", "k3"], True)
    assert (told(state, 10), state.is_due_left) == (["k4", "k5"], False)


def test_a_run_that_did_too_much_is_told_fewer_keys_and_later_more_again(
    store: PartitionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_DUE", 8)
    state = LaneState(store, 100, (DUES,))
    state.most_due = 8
    put(state, **{f"k{n}": n for n in range(20)})
    stage = state.stage()
    assert len(stage.view(DUES).due(50)) == 8
    state.discard(stage)
    assert state.tell_fewer(stage)
    assert [len(told(state, 50)) for _ in range(4)] == [2, 4, 8, 6]


def test_nothing_due_means_that_fewer_would_not_help(store: PartitionStore) -> None:
    state = LaneState(store, 100, (DUES,))
    assert not state.tell_fewer(state.stage())


steps = st.lists(st.tuples(st.sampled_from(["put", "tell", "discard"]), st.sampled_from("abcd"), st.integers(0, 20)), max_size=40)


@given(steps)
def test_every_key_is_told_by_the_time_it_is_due_however_runs_end(script: list[tuple[str, str, int]]) -> None:
    state, values = LaneState(_Nothing(), 100, (DUES,)), dict[str, int]()  # type: ignore[arg-type]
    for step, key, number in script:
        if step == "put":
            put(state, **{key: number})
            values[key] = number
        else:
            stage = state.stage()
            keys = stage.view(DUES).due(number)
            assert {k for k, due in values.items() if due <= number} <= set(keys)
            state.discard(stage) if step == "discard" else accept(state, stage)
    assert set(values) <= set(state.stage().view(DUES).due(100))


class _Nothing:
    """A store without content."""

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [None] * len(keys)

    def scan_all(self, prefix: bytes) -> Iterable[tuple[bytes, bytes]]:
        return ()


# -- sweeping -----------------------------------------------------------------------------------------


def test_a_sweep_goes_round_all_keys_and_sees_the_newest_values(store: PartitionStore) -> None:
    store.apply({DUES.raw_key(key): b"1" for key in "abcde"}, 0)
    state = LaneState(store, 10, (DUES,))
    stage = state.stage()
    stage.view(DUES).put("b", 7)
    stage.view(DUES).delete("c")
    accept(state, stage)
    view = state.stage().view(DUES)
    assert [view.sweep(2) for _ in range(4)] == [{"a": 1, "b": 7}, {"d": 1}, {"e": 1}, {"a": 1, "b": 7}]
    assert state.stage().view(DUES).sweep(1) == {}, "c is deleted, and its turn has come"

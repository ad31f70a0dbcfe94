"""What a body reads: its own writes first, then accepted ones, then RocksDB; and nothing of a discarded run."""

from __future__ import annotations

import msgspec
import pytest

from app.domain.damage import DamagedState
from app.engine.api import View, struct_view
from app.engine.state import LaneState, UndecodableValue
from app.engine.store import PartitionStore
from tests.engine.support import COUNTS

OTHER: View[str] = View("names", b"n", str.encode, bytes.decode)


class CountingStore:
    """Passes on to a store and notes every multi-get."""

    def __init__(self, store: PartitionStore) -> None:
        self._store = store
        self.reads: list[list[bytes]] = []

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        self.reads.append(list(keys))
        return self._store.get_many(keys)


@pytest.fixture
def state(store: PartitionStore) -> LaneState:
    """RocksDB holds a=1, b=2."""
    store.apply({b"ca": b"1", b"cb": b"2"}, 0)
    return LaneState(store, 100)


def test_a_read_sees_rocksdb_and_absent_keys_are_left_out(state: LaneState) -> None:
    assert state.stage().view(COUNTS).get_many(["a", "b", "zzz"]) == {"a": 1, "b": 2}
    assert state.stage().view(COUNTS).get("zzz") is None


def test_a_read_sees_what_this_run_has_written(state: LaneState) -> None:
    counts = state.stage().view(COUNTS)
    counts.put("a", 10)
    counts.put("new", 3)
    assert counts.get_many(["a", "b", "new"]) == {"a": 10, "b": 2, "new": 3}


def test_two_bindings_of_a_view_in_one_run_see_each_other(state: LaneState) -> None:
    stage = state.stage()
    stage.view(COUNTS).put("a", 10)
    assert stage.view(COUNTS).get("a") == 10


def test_a_read_sees_writes_that_are_accepted_but_not_in_rocksdb(state: LaneState, store: PartitionStore) -> None:
    stage = state.stage()
    stage.view(COUNTS).put("a", 10)
    state.accept(stage, stage.encode())
    assert state.stage().view(COUNTS).get("a") == 10
    assert store.get(b"ca") == b"1"


def test_a_run_that_is_not_accepted_leaves_no_trace(state: LaneState) -> None:
    stage = state.stage()
    stage.view(COUNTS).put("a", 10)
    stage.view(COUNTS).delete("b")
    assert state.stage().view(COUNTS).get_many(["a", "b"]) == {"a": 1, "b": 2}


def test_a_deleted_key_is_gone_for_this_run_and_for_later_ones(state: LaneState) -> None:
    stage = state.stage()
    stage.view(COUNTS).delete("a")
    assert stage.view(COUNTS).get("a") is None
    state.accept(stage, stage.encode())
    assert state.stage().view(COUNTS).get("a") is None
    assert stage.encode() == {b"ca": None}


def test_a_deleted_key_can_be_written_again(state: LaneState) -> None:
    stage = state.stage()
    stage.view(COUNTS).delete("a")
    stage.view(COUNTS).put("a", 5)
    assert stage.view(COUNTS).get("a") == 5
    assert stage.encode() == {b"ca": b"5"}


def test_the_last_write_of_a_key_is_the_one_that_is_encoded(state: LaneState) -> None:
    stage = state.stage()
    for count in range(5):
        stage.view(COUNTS).put("a", count)
    assert stage.encode() == {b"ca": b"4"}


def test_views_do_not_see_each_others_keys(state: LaneState) -> None:
    stage = state.stage()
    stage.view(OTHER).put("a", "Ada")
    assert stage.view(COUNTS).get("a") == 1
    assert stage.encode() == {b"na": b"Ada"}


def test_a_many_key_read_is_one_multi_get_of_what_is_not_in_memory(store: PartitionStore) -> None:
    store.apply({b"c%d" % n: b"%d" % n for n in range(10)}, 0)
    counting = CountingStore(store)
    state = LaneState(store, 100)
    state.store = counting  # type: ignore[assignment]
    counts = state.stage().view(COUNTS)
    counts.put("3", 33)
    assert counts.get_many(str(n) for n in range(5)) == {"0": 0, "1": 1, "2": 2, "3": 33, "4": 4}
    assert counts.get_many(str(n) for n in range(7)) == {"0": 0, "1": 1, "2": 2, "3": 33, "4": 4, "5": 5, "6": 6}
    assert counting.reads == [[b"c0", b"c1", b"c2", b"c4"], [b"c5", b"c6"]]


def test_a_key_asked_for_twice_is_read_once(store: PartitionStore) -> None:
    counting = CountingStore(store)
    state = LaneState(store, 100)
    state.store = counting  # type: ignore[assignment]
    state.stage().view(COUNTS).get_many(["a", "a", "a"])
    assert counting.reads == [[b"ca"]]


def test_a_value_of_another_type_is_damage_and_names_view_and_remedy(store: PartitionStore) -> None:
    numbers = struct_view("numbers", b"i", int)
    store.apply({b"ia": msgspec.msgpack.encode("text")}, 0)
    with pytest.raises(UndecodableValue, match="rebuild the table") as caught:
        LaneState(store, 10).stage().view(numbers).get("a")
    assert caught.value.view == "numbers"
    assert isinstance(caught.value, DamagedState)


# -- memory -------------------------------------------------------------------------------------------


def accepted(state: LaneState, **counts: int | None) -> dict[bytes, bytes | None]:
    """Accept one run; returns its raw writes."""
    stage = state.stage()
    for key, count in counts.items():
        if count is None:
            stage.view(COUNTS).delete(key)
        else:
            stage.view(COUNTS).put(key, count)
    writes = stage.encode()
    state.accept(stage, writes)
    return writes


def test_values_that_are_not_in_rocksdb_yet_stay_in_memory(store: PartitionStore) -> None:
    state = LaneState(store, 1)
    first = accepted(state, a=1, b=2)
    accepted(state, c=3)
    assert state.stage().view(COUNTS).get_many("abc") == {"a": 1, "b": 2, "c": 3}
    store.apply(first, 1)
    state.settle(1)
    assert set(state.hot) == {b"cc"}
    assert state.stage().view(COUNTS).get_many("abc") == {"a": 1, "b": 2, "c": 3}


def test_a_key_of_a_later_run_too_stays_when_the_earlier_one_is_in_rocksdb(store: PartitionStore) -> None:
    state = LaneState(store, 0)
    first = accepted(state, a=1)
    accepted(state, a=2)
    store.apply(first, 0)
    state.settle(1)
    assert state.stage().view(COUNTS).get("a") == 2


def test_a_delete_that_is_not_in_rocksdb_yet_is_remembered(store: PartitionStore) -> None:
    store.apply({b"ca": b"1"}, 0)
    state = LaneState(store, 0)
    other = accepted(state, b=1)
    delete = accepted(state, a=None)
    store.apply(other, 1)
    state.settle(1)
    assert state.stage().view(COUNTS).get("a") is None
    store.apply(delete, 2)
    state.settle(1)
    assert state.hot == {}
    assert state.stage().view(COUNTS).get("a") is None


def test_several_runs_of_one_unit_settle_together(store: PartitionStore) -> None:
    state = LaneState(store, 0)
    store.apply(accepted(state, a=1) | accepted(state, b=2), 0)
    accepted(state, c=3)
    state.settle(2)
    assert set(state.hot) == {b"cc"}


def test_the_oldest_writes_leave_first_and_only_down_to_the_limit(store: PartitionStore) -> None:
    state = LaneState(store, 2)
    store.apply(accepted(state, a=1, b=2, c=3), 0)
    store.apply(accepted(state, a=4), 1)
    state.settle(2)
    assert list(state.hot) == [b"cc", b"ca"]
    state.settle(0)
    assert list(state.hot) == [b"cc", b"ca"]


def test_values_that_were_only_read_leave_too(store: PartitionStore) -> None:
    store.apply({b"c%d" % n: b"1" for n in range(5)}, 0)
    state = LaneState(store, 2)
    state.stage().view(COUNTS).get_many("01234")
    state.settle(0)
    assert len(state.hot) == 2

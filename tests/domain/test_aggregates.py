"""Laws of aggregates: one result for any order and any split; errors of the estimates; the least and the most they hold."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.aggregates import Aggregate, Count, Max, Mean, Min, Ratio, Sum
from app.domain.amounts import MAX_SUM
from app.domain.estimates import Distinct, TopK
from app.domain.hyperloglog import MAX_ESTIMATE, MAX_SPARSE, PRECISION, REGISTERS, Sketch, add_text, estimate, merge

Pair = tuple[str, int | None]


def number(event: Pair) -> int | None:
    return event[1]


def text(event: Pair) -> str | None:
    return event[0] or None


def is_even(event: Pair) -> bool:
    return event[1] is not None and event[1] % 2 == 0


AGGREGATES: dict[str, Aggregate[Pair, Any]] = {
    "count": Count(),
    "count where": Count(is_even),
    "sum": Sum(number),
    "min": Min(number),
    "max": Max(number),
    "mean": Mean(number),
    "ratio": Ratio(Count(is_even), Sum(number)),
    "distinct": Distinct(text),
    "top": TopK(text, 2, 5),
}
every_aggregate = pytest.mark.parametrize("aggregate", AGGREGATES.values(), ids=AGGREGATES.keys())
pairs = st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d", "e"]), st.none() | st.integers(-5, 5)), max_size=12)


def fold(aggregate: Aggregate[Pair, Any], events: list[Pair]) -> Any:
    acc = aggregate.initialize()
    for event in events:
        acc = aggregate.add(acc, event)
    return acc


def through_bytes(acc: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(acc), type=list[Any] if isinstance(acc, list) else Any, strict=False)


@every_aggregate
@given(pairs, pairs, pairs)
def test_merging_is_associative_and_commutative_and_equals_adding_all(
    aggregate: Aggregate[Pair, Any], a: list[Pair], b: list[Pair], c: list[Pair]
) -> None:
    def parts() -> list[Any]:
        return [through_bytes(fold(aggregate, part)) for part in (a, b, c)]

    whole = aggregate.result(fold(aggregate, a + b + c))
    for x, y, z in permutations(parts()):
        assert aggregate.result(aggregate.merge(aggregate.merge(x, y), z)) == whole
        assert aggregate.result(aggregate.merge(x, aggregate.merge(y, z))) == whole
    assert aggregate.result(fold(aggregate, c + b + a)) == whole


@every_aggregate
@given(pairs, pairs)
def test_a_copy_can_change_without_its_original_and_merging_changes_neither(
    aggregate: Aggregate[Pair, Any], a: list[Pair], b: list[Pair]
) -> None:
    stored, other = fold(aggregate, a), fold(aggregate, b)
    before = msgspec.msgpack.encode([stored, other])
    copied = aggregate.copy(stored)
    for event in b:
        copied = aggregate.add(copied, event)
    aggregate.merge(stored, other)
    assert msgspec.msgpack.encode([stored, other]) == before
    assert aggregate.result(copied) == aggregate.result(fold(aggregate, a + b))


@pytest.mark.parametrize(
    ("name", "of_none", "of_some"),
    [
        ("count", 0, 4),
        ("count where", 0, 2),
        ("sum", 0, 9),
        ("min", None, 2),
        ("max", None, 4),
        ("mean", None, 3.0),
        ("ratio", None, 2 / 9),
        ("distinct", 0, 2),
        ("top", [], [["a", 2], ["b", 1]]),
    ],
)
def test_results_of_no_event_and_of_some(name: str, of_none: object, of_some: object) -> None:
    aggregate = AGGREGATES[name]
    assert aggregate.result(aggregate.initialize()) == of_none
    assert aggregate.result(fold(aggregate, [("a", 2), ("b", 3), ("a", 4), ("", None)])) == of_some


def test_a_ratio_is_none_over_nothing() -> None:
    assert Ratio(Count(), Count(is_even)).result([3, 0]) is None
    assert Ratio(Min(number), Count()).result([None, 2]) is None


def test_sums_stop_at_64_bits() -> None:
    for aggregate in (Sum(number), Mean(number)):
        acc = fold(aggregate, [("", MAX_SUM), ("", MAX_SUM)])
        msgspec.msgpack.encode(aggregate.merge(acc, acc))


def sketch_of(texts: range) -> Sketch:
    sketch: Sketch = {}
    for value in texts:
        sketch = add_text(sketch, f"user-{value}")
    return sketch


@pytest.mark.parametrize(("distinct", "error"), [(0, 0.0), (1, 0.0), (100, 0.03), (1000, 0.05), (10_000, 0.05), (60_000, 0.05)])
def test_an_estimate_is_within_three_standard_errors(distinct: int, error: float) -> None:
    assert abs(estimate(sketch_of(range(distinct))) - distinct) <= distinct * error


def test_the_mean_error_over_many_sets_is_the_stated_one() -> None:
    size = 1000
    errors = [estimate(sketch_of(range(part * size, (part + 1) * size))) / size - 1 for part in range(20)]
    assert (sum(error * error for error in errors) / len(errors)) ** 0.5 < 0.02
    assert abs(sum(errors) / len(errors)) < 0.01


@pytest.mark.parametrize("distinct", [200, 400])
def test_sketches_do_not_depend_on_order_repeats_or_splits(distinct: int) -> None:
    whole, evens, odds = sketch_of(range(distinct)), sketch_of(range(0, distinct, 2)), sketch_of(range(1, distinct, 2))
    backwards: Sketch = {}
    for value in [*reversed(range(distinct)), *range(distinct)]:
        backwards = add_text(backwards, f"user-{value}")
    assert backwards == whole == merge(evens, odds) == merge(odds, evens) == merge(merge(odds, whole), evens)
    assert isinstance(whole, dict) == (distinct == 200)


def test_a_sketch_is_at_most_its_registers() -> None:
    assert len(sketch_of(range(250))) <= MAX_SPARSE
    assert len(sketch_of(range(2000))) == REGISTERS
    assert len(msgspec.msgpack.encode(sketch_of(range(2000)))) < REGISTERS + 8
    assert len(msgspec.msgpack.encode(sketch_of(range(250)))) < MAX_SPARSE * 4 + 8


def test_a_stored_sketch_is_not_changed_by_adding_to_it() -> None:
    stored = bytes(sketch_of(range(2000)))
    assert add_text(stored, "user-0") is stored
    assert estimate(add_text(add_text(stored, "x"), "y")) >= estimate(stored)


def test_a_full_sketch_still_estimates() -> None:
    assert estimate(bytes([3] * REGISTERS)) > REGISTERS
    assert estimate(bytes([64 - PRECISION + 1] * REGISTERS)) == MAX_ESTIMATE


@pytest.mark.parametrize("parts", [1, 4])
def test_beyond_its_capacity_top_k_overcounts_by_at_most_n_over_capacity(parts: int) -> None:
    top: TopK[str] = TopK(lambda event: event, k=10, capacity=50)
    source = random.Random(7)
    events = [f"i{int(source.paretovariate(0.6))}" for _ in range(4000)]
    summaries = []
    for part in range(parts):
        acc = top.initialize()
        for event in events[part::parts]:
            acc = top.add(acc, event)
        assert len(acc) <= 50
        summaries.append(acc)
    merged = summaries[0]
    for other in summaries[1:]:
        merged = top.merge(merged, other)
    true, allowed = Counter(events), len(events) / 50
    assert len(merged) <= 50
    assert all(true[value] <= held <= true[value] + allowed for value, held in merged.items())
    assert {value for value, held in true.items() if held > allowed} <= merged.keys()


@pytest.mark.parametrize(("k", "capacity"), [(0, 5), (6, 5)])
def test_a_top_k_that_cannot_be_held_is_refused(k: int, capacity: int) -> None:
    with pytest.raises(ValueError, match="top-k"):
        TopK(text, k, capacity)

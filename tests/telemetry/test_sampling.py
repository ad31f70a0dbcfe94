"""Which records are recorded: by ratio, by their producer, and never more than the budget."""

from __future__ import annotations

import pytest

from app.engine.api import Header
from app.telemetry.sampling import Sampler
from tests.fakes import FakeRecord

YES: tuple[Header, ...] = (("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),)
NO: tuple[Header, ...] = (("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-00"),)
PLENTY = 1e9


def records(count: int, start: int = 0) -> list[FakeRecord]:
    return [FakeRecord(b"", offset=start + n) for n in range(count)]


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_the_ratio_holds_whatever_the_size_of_micro_batches(size: int) -> None:
    sampler, chosen = Sampler(0.01, PLENTY), 0
    for _ in range(200_000 // size):
        chosen += len(sampler.choose(records(size), {}))
    assert chosen == pytest.approx(2000, rel=0.1)


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, 0), (1.0, 500)])
def test_none_and_all(ratio: float, expected: int) -> None:
    assert sum(len(Sampler(ratio, PLENTY).choose(records(100), {})) for _ in range(5)) == expected


def test_a_record_is_chosen_once_and_in_place() -> None:
    chosen = Sampler(0.5, PLENTY).choose(records(1000), {})
    offsets = [record.offset for record in chosen]
    assert offsets == sorted(set(offsets))


def test_what_a_producer_decided_holds_whatever_the_ratio() -> None:
    contexts = {3: YES, 5: NO}
    assert [record.offset for record in Sampler(0.0, PLENTY).choose(records(10), contexts)] == [3]
    assert [record.offset for record in Sampler(1.0, PLENTY).choose(records(10), contexts)] == [3, 0, 1, 2, 4, 6, 7, 8, 9]


def test_no_more_than_the_budget_is_chosen_and_it_fills_again_with_time() -> None:
    now = [0.0]
    sampler = Sampler(1.0, 10, lambda: now[0])
    assert [len(sampler.choose(records(count), {})) for count in (6, 3, 1, 1)] == [6, 3, 1, 0]
    now[0] = 0.5
    assert len(sampler.choose(records(5), {})) == 5
    now[0] = 100.0
    assert len(sampler.choose(records(100), {})) == 10, "a micro-batch with more of them than the whole budget"


def test_a_micro_batch_is_recorded_with_all_that_are_chosen_or_not_at_all() -> None:
    sampler = Sampler(1.0, 10, lambda: 0.0)
    assert [len(sampler.choose(records(count), {})) for count in (6, 6, 4)] == [6, 0, 4]

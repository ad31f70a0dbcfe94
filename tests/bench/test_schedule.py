"""The plan of an open-loop run."""

from __future__ import annotations

import itertools

import pytest

from bench.schedule import NANOSECOND, Share, Slice, events_in, interleave, plan_seconds, send_times

SHARES = [Share("floor", 20), Share("worker", 60), Share("hand", 30)]


def test_uniform_send_times_are_evenly_spaced_from_the_offset() -> None:
    part = Slice("t", offset_s=2.0, seconds=1.0, rate=4.0)

    assert list(send_times(part, 100)) == [100 + 2 * NANOSECOND + i * NANOSECOND // 4 for i in range(4)]


def test_uniform_arrivals_do_not_drift() -> None:
    part = Slice("t", 0.0, 300.0, 3.0)  # a third of a second is no whole number of ns

    times = list(send_times(part, 0))

    assert len(times) == events_in(part) == 900
    assert times[-1] == int(899 * NANOSECOND / 3)


def test_poisson_arrivals_keep_rate_and_window_and_never_decrease() -> None:
    part = Slice("t", 1.0, 50.0, 200.0)

    times = list(send_times(part, 0, "poisson", seed=7))

    assert times == sorted(times)
    assert times[0] > NANOSECOND
    assert times[-1] < 51 * NANOSECOND
    assert len(times) == pytest.approx(10_000, rel=0.05)


def test_poisson_arrivals_are_the_same_for_a_seed_and_differ_for_another() -> None:
    part = Slice("t", 0.0, 1.0, 100.0)

    assert list(send_times(part, 0, "poisson", 1)) == list(send_times(part, 0, "poisson", 1))
    assert list(send_times(part, 0, "poisson", 1)) != list(send_times(part, 0, "poisson", 2))


def test_every_target_gets_its_seconds_and_a_warmup_that_does_not_count() -> None:
    plan = interleave(SHARES, rate=1000, rounds=4, warmup_s=5, gap_s=0.5)

    for share in SHARES:
        measured = [part for part in plan if part.target == share.target and not part.warmup]
        assert sum(part.seconds for part in measured) == share.seconds
        assert [part.seconds for part in plan if part.target == share.target and part.warmup] == [5]


def test_rounds_alternate_their_order() -> None:
    plan = [part.target for part in interleave(SHARES, 1000, rounds=2, warmup_s=5, gap_s=0) if not part.warmup]

    assert plan == ["floor", "worker", "hand", "hand", "worker", "floor"]


def test_slices_do_not_overlap_and_keep_their_gap() -> None:
    plan = interleave(SHARES, 1000, rounds=3, warmup_s=5, gap_s=0.5)

    for before, after in itertools.pairwise(plan):
        assert after.offset_s == pytest.approx(before.offset_s + before.seconds + 0.5)
    assert plan_seconds(plan) == pytest.approx(plan[-1].offset_s + plan[-1].seconds)

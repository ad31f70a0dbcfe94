"""A partition's clock: idle advance in steps, and when downstream hears of it."""

from __future__ import annotations

import itertools

from app.domain.source_clock import ANNOUNCE_MS, IDLE_STEPS, SourceClock
from app.domain.watermarks import WatermarkPolicy

NOW_MS = 1_700_000_000_000
IDLE_MS = 60_000
POLICY = WatermarkPolicy(out_of_orderness_ms=30_000, idle_ms=IDLE_MS)


def test_a_silent_partition_moves_on_after_the_idle_time_and_then_in_steps() -> None:
    clock = SourceClock(POLICY, None)
    clock.watermark.observe(NOW_MS, NOW_MS)
    assert not clock.idle(NOW_MS + IDLE_MS - 1)
    step_ms = IDLE_MS // IDLE_STEPS
    moved = [ms for ms in range(0, 5 * IDLE_MS, 500) if clock.idle(NOW_MS + ms)]
    assert moved[0] >= IDLE_MS
    assert {later - earlier for earlier, later in itertools.pairwise(moved)} == {step_ms}
    assert clock.watermark_ms == NOW_MS + moved[-1] - IDLE_MS - POLICY.out_of_orderness_ms


def test_a_partition_that_never_had_a_record_is_silent_from_when_it_was_first_looked_at() -> None:
    clock = SourceClock(POLICY, None)
    assert clock.idle(NOW_MS), "to be stored: a restart must not begin to wait anew"
    again = SourceClock(POLICY, clock.snapshot())
    assert not again.idle(NOW_MS + IDLE_MS - 1)
    assert again.idle(NOW_MS + IDLE_MS)
    assert again.watermark_ms == NOW_MS - POLICY.out_of_orderness_ms


def test_without_an_idle_time_a_silent_partition_stands_still() -> None:
    clock = SourceClock(WatermarkPolicy(idle_ms=0), None)
    clock.watermark.observe(NOW_MS, NOW_MS)
    before = clock.snapshot()
    assert not clock.idle(NOW_MS + 10**9)
    assert clock.snapshot() == before


def test_everyone_is_told_when_the_watermark_has_moved_far_enough() -> None:
    clock = SourceClock(POLICY, None)
    clock.watermark.observe(NOW_MS, NOW_MS)
    assert clock.announce()
    assert not clock.announce()
    clock.watermark.observe(NOW_MS + ANNOUNCE_MS - 1, NOW_MS + ANNOUNCE_MS)
    assert not clock.announce()
    clock.watermark.observe(NOW_MS + ANNOUNCE_MS, NOW_MS + ANNOUNCE_MS)
    assert SourceClock(POLICY, clock.snapshot()).announce(), "what was told is stored, what was not is told after a restart"

"""Laws of watermarks: monotonic, bounded by broker time, held back by the unknown, restored as they were."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.min_watermark import MinWatermark, MinWatermarkState
from app.domain.watermarks import NO_WATERMARK, Watermark, WatermarkPolicy, WatermarkState

POLICY = WatermarkPolicy(out_of_orderness_ms=30, max_lead_ms=5, idle_ms=100)
observations = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), max_size=40)


def through_bytes(state: WatermarkState) -> WatermarkState:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=WatermarkState)


def test_it_is_the_latest_event_time_less_the_bound() -> None:
    watermark = Watermark(POLICY)
    assert watermark.watermark_ms == NO_WATERMARK
    assert watermark.observe(1000, 1000) == 970
    assert watermark.observe(1001, 1001) == 971


def test_an_old_event_does_not_move_it_back() -> None:
    watermark = Watermark(POLICY)
    watermark.observe(1000, 1000)
    assert watermark.observe(0, 1000) == 970


@pytest.mark.parametrize(("event_ms", "expected"), [(1005, 975), (1006, 975), (10**9, 975)])
def test_an_event_from_the_future_moves_it_at_most_to_its_broker_time_and_the_lead(event_ms: int, expected: int) -> None:
    assert Watermark(POLICY).observe(event_ms, 1000) == expected


def test_an_accepted_event_is_ahead_of_the_watermark_by_at_most_the_reach() -> None:
    watermark, max_ahead_ms = Watermark(POLICY), 300
    for received_ms, ahead_ms in [(1000, 300), (1001, -500), (1002, 0), (1003, 300)]:
        event_ms = received_ms + ahead_ms
        assert event_ms - watermark.observe(event_ms, received_ms) <= POLICY.reach_ms(max_ahead_ms) == 325


@given(observations, st.lists(st.integers(0, 2000), max_size=40))
def test_it_never_goes_back_whatever_comes(seen: list[tuple[int, int]], nows: list[int]) -> None:
    watermark, before = Watermark(POLICY), NO_WATERMARK
    for at, (event_ms, received_ms) in enumerate(seen):
        after = watermark.observe(event_ms, received_ms)
        if at < len(nows):
            moved = watermark.advance_idle(nows[at])
            assert moved == (watermark.watermark_ms > after)
        assert watermark.watermark_ms >= after >= before
        before = watermark.watermark_ms


@given(observations, st.integers(0, 40))
def test_a_restart_anywhere_changes_nothing(seen: list[tuple[int, int]], crash_at: int) -> None:
    steady, crashing = Watermark(POLICY), Watermark(POLICY)
    for at, (event_ms, received_ms) in enumerate(seen):
        if at == crash_at:
            crashing = Watermark(POLICY, through_bytes(crashing.snapshot()))
        assert crashing.observe(event_ms, received_ms) == steady.observe(event_ms, received_ms)
    assert crashing.snapshot() == steady.snapshot()


@pytest.mark.parametrize(
    ("now_ms", "moved", "expected"), [(1099, False, 970), (1100, False, 970), (1101, True, 971), (5000, True, 4870)]
)
def test_a_silent_source_moves_on_as_if_an_event_had_come_one_idle_time_ago(now_ms: int, moved: bool, expected: int) -> None:
    watermark = Watermark(POLICY)
    watermark.observe(1000, 1000)
    assert watermark.advance_idle(now_ms) is moved
    assert watermark.watermark_ms == expected


def test_an_idle_advance_is_kept_over_a_restart() -> None:
    watermark = Watermark(POLICY)
    watermark.observe(1000, 1000)
    watermark.advance_idle(5000)
    assert Watermark(POLICY, through_bytes(watermark.snapshot())).observe(1100, 1100) == 4870


def test_without_an_idle_time_a_silent_source_holds_it_for_ever() -> None:
    watermark = Watermark(WatermarkPolicy(30))
    watermark.observe(1000, 1000)
    assert not watermark.advance_idle(10**9)


def test_a_source_that_never_spoke_has_no_watermark_to_advance() -> None:
    assert not Watermark(POLICY).advance_idle(10**9)


def test_an_unknown_upstream_holds_the_minimum_back() -> None:
    minimum = MinWatermark(POLICY, range(2))
    assert minimum.observe(0, 500, 500) == NO_WATERMARK
    assert minimum.observe(1, 300, 300) == 300
    assert minimum.observe(0, 900, 900) == 300
    assert minimum.observe(1, 700, 700) == 700


def test_an_upstream_that_was_not_announced_is_an_error() -> None:
    with pytest.raises(KeyError):
        MinWatermark(POLICY, range(2)).observe(2, 1, 1)


def test_a_silent_upstream_is_left_out_and_is_late_when_it_comes_back() -> None:
    minimum = MinWatermark(POLICY, range(2))
    minimum.observe(0, 300, 300)
    minimum.observe(1, 500, 500)
    assert not minimum.advance_idle(399)
    assert minimum.advance_idle(400)
    assert minimum.watermark_ms == 500
    assert minimum.observe(0, 310, 510) == 500


def test_when_all_upstreams_are_silent_the_greatest_of_theirs_counts() -> None:
    minimum = MinWatermark(POLICY, range(2))
    minimum.observe(0, 300, 300)
    minimum.observe(1, 500, 500)
    assert minimum.advance_idle(10**6)
    assert minimum.watermark_ms == 500


def test_an_upstream_that_never_spoke_is_silent_since_the_first_look() -> None:
    minimum = MinWatermark(POLICY, range(2))
    minimum.observe(0, 5000, 5000)
    assert not minimum.advance_idle(5000)
    minimum.observe(0, 5100, 5100)
    assert minimum.advance_idle(5100)
    assert minimum.watermark_ms == 5100


def test_without_upstreams_or_idle_time_a_minimum_does_not_advance() -> None:
    assert not MinWatermark(POLICY, ()).advance_idle(10**9)
    assert not MinWatermark(WatermarkPolicy(), range(2)).advance_idle(10**9)


reports = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 1000), st.integers(0, 1000), st.none() | st.integers(0, 2000)), max_size=40
)


@given(reports, st.integers(0, 40))
def test_a_minimum_never_goes_back_and_survives_a_restart_anywhere(
    seen: list[tuple[int, int, int, int | None]], crash_at: int
) -> None:
    steady, crashing, before = MinWatermark(POLICY, range(3)), MinWatermark(POLICY, range(3)), NO_WATERMARK
    for at, (upstream, watermark_ms, received_ms, now_ms) in enumerate(seen):
        if at == crash_at:
            raw = msgspec.msgpack.encode(crashing.snapshot())
            crashing = MinWatermark(POLICY, range(3), msgspec.msgpack.decode(raw, type=MinWatermarkState))
        for minimum in (steady, crashing):
            minimum.observe(upstream, watermark_ms, received_ms)
            if now_ms is not None:
                minimum.advance_idle(now_ms)
        assert crashing.snapshot() == steady.snapshot()
        assert steady.watermark_ms >= before
        before = steady.watermark_ms


@given(reports)
def test_without_idle_times_it_is_the_plain_minimum(seen: list[tuple[int, int, int, int | None]]) -> None:
    minimum, latest = MinWatermark(WatermarkPolicy(), range(3)), dict.fromkeys(range(3), NO_WATERMARK)
    for upstream, watermark_ms, received_ms, _ in seen:
        latest[upstream] = max(latest[upstream], watermark_ms)
        assert minimum.observe(upstream, watermark_ms, received_ms) == min(latest.values())

"""A shared rate: never above it on average, and what was not spent while idle is not spent at once later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.lookups.throttle import Throttle


class Time:
    """Passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += max(0.0, seconds)


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 10)), min_size=1, max_size=30))
async def test_no_stretch_of_time_sees_more_than_the_rate(steps: list[tuple[int, float]]) -> None:
    time = Time()
    throttle = Throttle(100, time, time.sleep)
    spent = list[tuple[float, float, int]]()

    for count, idle_s in steps:
        began = time.now
        await throttle.spend(count)
        spent.append((began, time.now, count))
        time.now += idle_s

    for first, (began, _, _) in enumerate(spent):
        for _, ended, _ in spent[first:]:
            done = sum(count for start, end, count in spent[first:] if end <= ended)
            assert done <= 100 * (ended - began) + 1e-6

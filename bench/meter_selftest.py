"""Does the meter measure? A service with known delays, in real time: ``python -m bench.meter_selftest``.

The service takes 1 ms, and 200 ms at every 500th call. Its queue can be computed, so the open-loop meter must give the
computed percentiles within 5 %; a closed-loop meter on the same service must not, which shows why it is not used.
"""

from __future__ import annotations

import sys
import time
from array import array
from collections.abc import Callable, Iterable, Sequence

from bench.histogram import Percentiles, histogram_of, summarise
from bench.load import Clock, SystemClock, closed_loop, open_loop
from bench.schedule import NANOSECOND, Slice, send_times

SERVICE_NS, PAUSE_NS, PAUSE_EVERY = 1_000_000, 200_000_000, 500
RATE, SECONDS = 400.0, 10.0
TOLERANCE = 0.05
SPIN_NS = 200_000  # the kernel wakes a sleeper late: sleep short, then wait actively


def delay_ns(call: int) -> int:
    """How long the service takes for its n-th call, from 1."""
    return PAUSE_NS if call % PAUSE_EVERY == 0 else SERVICE_NS


def computed_latencies(times: Iterable[int]) -> list[int]:
    """What one server that works in order does to these arrivals: ns from arrival to completion."""
    free_at, found = 0, []
    for call, arrival in enumerate(times, start=1):
        free_at = max(arrival, free_at) + delay_ns(call)
        found.append(free_at - arrival)
    return found


def service(clock: Clock, done: array[int]) -> Callable[[int, int], None]:
    """The fake service: blocks its caller; appends completion less ``intended`` to ``done``."""
    calls = 0

    def call(_sequence: int, intended: int) -> None:
        nonlocal calls
        calls += 1
        clock.sleep_until(clock.now() + delay_ns(calls))
        done.append(clock.now() - intended)

    return call


class PreciseClock(SystemClock):
    """A clock that wakes on time."""

    def sleep_until(self, at_ns: int) -> None:
        ahead = at_ns - time.monotonic_ns() - SPIN_NS
        if ahead > 0:
            time.sleep(ahead / NANOSECOND)
        while time.monotonic_ns() < at_ns:
            pass


def percentiles(values_ns: Iterable[int]) -> Percentiles:
    return summarise(histogram_of(value // 1000 for value in values_ns))


def measure_open(clock: Clock, times: Sequence[int]) -> Percentiles:
    """Percentiles that the open-loop meter gives for the fake service."""
    done = array("q")
    open_loop(times, service(clock, done), clock)
    return percentiles(done)


def measure_closed(clock: Clock, times: Sequence[int]) -> Percentiles:
    """Percentiles that the closed-loop meter gives for the same service."""
    return percentiles(closed_loop(times, service(clock, array("q")), clock))


def is_close(measured: float, computed: float) -> bool:
    return abs(measured - computed) <= TOLERANCE * computed


def main() -> int:
    """Exit status 1 when the meter is wrong."""
    plan, clock = Slice("service", 0.0, SECONDS, RATE), PreciseClock()
    expected = percentiles(computed_latencies(send_times(plan, 0)))
    opened = measure_open(clock, list(send_times(plan, clock.now())))
    closed = measure_closed(clock, list(send_times(plan, clock.now())))
    print(f"computed    p50 {expected.p50_ms:8.3f} ms  p99 {expected.p99_ms:8.3f} ms")
    print(f"open loop   p50 {opened.p50_ms:8.3f} ms  p99 {opened.p99_ms:8.3f} ms")
    print(f"closed loop p50 {closed.p50_ms:8.3f} ms  p99 {closed.p99_ms:8.3f} ms  (misses the waiting)")
    right = is_close(opened.p99_ms, expected.p99_ms) and not is_close(closed.p99_ms, expected.p99_ms)
    print("the meter is right" if right else "THE METER IS WRONG, or this machine is too busy to tell")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())

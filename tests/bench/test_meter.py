"""The meter against a service whose delays are known, in virtual time."""

from __future__ import annotations

from array import array

from bench.load import closed_loop, open_loop
from bench.meter_selftest import (
    PAUSE_NS,
    SERVICE_NS,
    computed_latencies,
    is_close,
    measure_closed,
    measure_open,
    percentiles,
    service,
)
from bench.schedule import Slice, send_times

PLAN = Slice("service", 0.0, 30.0, 400.0)
START = 1_000


class VirtualClock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> int:
        return self.at

    def sleep_until(self, at_ns: int) -> None:
        self.at = max(self.at, at_ns)


def test_the_open_loop_meter_gives_the_computed_percentiles() -> None:
    times = list(send_times(PLAN, START))
    expected = percentiles(computed_latencies(times))

    found = measure_open(VirtualClock(), times)

    assert found == expected
    assert expected.p99_ms > 100  # the pause delays all that queue behind it


def test_the_closed_loop_meter_does_not_see_the_waiting() -> None:
    times = list(send_times(PLAN, START))
    expected = percentiles(computed_latencies(times))

    found = measure_closed(VirtualClock(), times)

    assert found.p99_ms == SERVICE_NS / 1e6
    assert not is_close(found.p99_ms, expected.p99_ms)


def test_lateness_is_what_the_sender_was_kept_from_sending() -> None:
    clock, done = VirtualClock(), array("q")

    lateness = open_loop([START, START + SERVICE_NS // 2], service(clock, done), clock)

    assert list(lateness) == [0, SERVICE_NS // 2]
    assert list(done) == [SERVICE_NS, SERVICE_NS + SERVICE_NS // 2]


def test_a_sender_on_time_is_not_late() -> None:
    clock = VirtualClock()

    assert list(open_loop([START + 5, START + 9], lambda sequence, intended: None, clock)) == [0, 0]


def test_the_closed_loop_counts_from_the_actual_send() -> None:
    clock = VirtualClock()

    seen = closed_loop([START] * 2, service(clock, array("q")), clock)

    assert list(seen) == [SERVICE_NS, SERVICE_NS]
    assert PAUSE_NS > SERVICE_NS

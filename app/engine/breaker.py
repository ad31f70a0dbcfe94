"""The breaker of a lane: when most events fail, the partition waits instead of flooding the dead letters.

    closed --- min_events outcomes in the window, more than ratio of them dead ---> open
    open ----- probe_s later ----------------------------------------------------> half open
    half open - probe_records outcomes, not more than ratio of them dead ---------> closed, with an empty window
    half open - more than ratio of them dead -------------------------------------> open
    any ------- an operator's call -----------------------------------------------> closed, with an empty window

Pure: the caller passes the clock (monotonic seconds). The lane asks ``allowance`` how many records it may take and
reports each computed unit with ``record``. Nothing is dropped and nothing raises: what may not be taken waits in
Kafka. Dead letters of a known class (``late``, ``shed``) count neither way: they say nothing about the source's health.
A batch that is run again (after an aborted transaction) is counted again, which only makes the window a little fuller.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from app.engine.api import Failure, LaneId, Record
from app.engine.status import BreakerState, BreakerStatus
from app.settings import Settings

log = structlog.get_logger(__name__)

#: Dispositions that are expected outcomes of their policy.
KNOWN_CLASS: Final = frozenset({"late", "shed"})
#: The window moves in steps of one bucket: its length is exact to a twelfth.
BUCKETS: Final = 12
#: How many records a half-open breaker tries.
PROBE_RECORDS: Final = 10
#: What a closed breaker allows.
UNLIMITED: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and how it closes; see the settings ``breaker_*``."""

    enabled: bool = True
    window_s: float = 60.0
    min_events: int = 200
    ratio: float = 0.5
    probe_s: float = 60.0
    probe_records: int = PROBE_RECORDS

    @classmethod
    def of(cls, settings: Settings) -> BreakerPolicy:
        """As configured."""
        return cls(
            enabled=settings.breaker_enabled,
            window_s=settings.breaker_window_ms / 1000,
            min_events=settings.breaker_min_events,
            ratio=settings.breaker_ratio,
            probe_s=settings.breaker_probe_ms / 1000,
        )


class OutcomeWindow:
    """Good and bad outcomes of the last ``window_s`` seconds, in ``BUCKETS`` steps. O(1) per call."""

    __slots__ = ("_bad", "_good", "_slot", "_slot_s", "bad", "good")

    def __init__(self, window_s: float) -> None:
        self._slot_s = window_s / BUCKETS
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._good, self._bad = [0] * BUCKETS, [0] * BUCKETS
        self.good = self.bad = self._slot = 0

    def add(self, now: float, good: int, bad: int) -> None:
        """Count outcomes at ``now``; a clock that goes back counts into the newest bucket."""
        self.advance(now)
        here = self._slot % BUCKETS
        self._good[here] += good
        self._bad[here] += bad
        self.good += good
        self.bad += bad

    def advance(self, now: float) -> None:
        """Drop what is older than the window."""
        slot = int(now / self._slot_s)
        for passed in range(max(self._slot + 1, slot - BUCKETS + 1), slot + 1):
            index = passed % BUCKETS
            self.good -= self._good[index]
            self.bad -= self._bad[index]
            self._good[index] = self._bad[index] = 0
        self._slot = max(self._slot, slot)


class Breaker:
    """One lane's breaker."""

    __slots__ = ("_policy", "_probed_bad", "_probed_good", "_window", "openings", "retry_at", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self.state: BreakerState = "closed"
        self.openings = 0
        self.retry_at = 0.0
        """monotonic seconds at which an open breaker lets records through again"""
        self._policy = policy
        self._window = OutcomeWindow(policy.window_s)
        self._probed_good = self._probed_bad = 0

    def allowance(self, now: float) -> int:
        """How many records may be taken now; 0: none before ``retry_at``."""
        if self.state == "closed":
            return UNLIMITED
        if self.state == "open":
            if now < self.retry_at:
                return 0
            self.state, self._probed_good, self._probed_bad = "half_open", 0, 0
        return self._policy.probe_records - self._probed_good - self._probed_bad

    def record(self, now: float, good: int, bad: int) -> None:
        """Outcomes of records that were taken. May open or close the breaker; while open they only count."""
        if not self._policy.enabled:
            return
        self._window.add(now, good, bad)
        if self.state == "half_open":
            self._judge_probe(now, good, bad)
        elif self.state == "closed" and self._is_bad(self._window.good, self._window.bad, self._policy.min_events):
            self._open(now)

    def close(self, now: float) -> BreakerStatus:
        """Close by hand, with an empty window; returns what it was before."""
        before = self.status(now)
        self._close()
        return before

    def status(self, now: float) -> BreakerStatus:
        """For people and metrics."""
        window = self._window
        window.advance(now)
        wait = max(0.0, self.retry_at - now) if self.state == "open" else 0.0
        return BreakerStatus(self.state, self.openings, wait, window.good + window.bad, window.bad)

    def _judge_probe(self, now: float, good: int, bad: int) -> None:
        self._probed_good += good
        self._probed_bad += bad
        if self._is_bad(self._probed_good, self._probed_bad, self._policy.probe_records):
            self._open(now)
        elif self._probed_good + self._probed_bad >= self._policy.probe_records:
            self._close()

    def _is_bad(self, good: int, bad: int, enough: int) -> bool:
        return good + bad >= enough and bad > self._policy.ratio * (good + bad)

    def _open(self, now: float) -> None:
        self.state, self.retry_at = "open", now + self._policy.probe_s
        self.openings += 1

    def _close(self) -> None:
        self.state = "closed"
        self._window.clear()


class LaneBreaker:
    """A breaker as its lane uses it: on the process's clock, with a word in the log for each change."""

    def __init__(self, lane: LaneId, breaker: Breaker, clock: Callable[[], float] = time.monotonic) -> None:
        self._lane = lane
        self._breaker = breaker
        self._clock = clock

    def allowance(self) -> int:
        """How many records may be taken now; 0: look again after ``wait_s``."""
        if self._breaker.state == "closed":
            return UNLIMITED
        return self._breaker.allowance(self._clock())

    def wait_s(self) -> float | None:
        """How long to wait at most before asking again; None: nothing to wait for. A second, to see an operator's call."""
        return min(1.0, max(0.0, self._breaker.retry_at - self._clock())) if self._breaker.state == "open" else None

    def record(self, records: int, dead_letters: Iterable[tuple[Record, Failure]]) -> None:
        """One computed unit: how many records it has, and which of them died."""
        known = bad = 0
        for _, failure in dead_letters:
            if failure.disposition in KNOWN_CLASS:
                known += 1
            else:
                bad += 1
        before = self._breaker.state
        self._breaker.record(self._clock(), records - known - bad, bad)
        if self._breaker.state != before:
            self._tell()

    def close(self) -> BreakerStatus:
        """Close by hand; the lane goes on within a second. Returns what it was before."""
        before = self._breaker.close(self._clock())
        if before.state != "closed":
            self._tell()
        return before

    def status(self) -> BreakerStatus:
        """For people and metrics."""
        return self._breaker.status(self._clock())

    def _tell(self) -> None:
        status = self.status()
        level = log.info if status.state == "closed" else log.error
        level(
            "breaker_changed", agent=self._lane.agent, partition=self._lane.partition, state=status.state,
            events=status.events, dead_letters=status.dead_letters, retry_in_s=round(status.retry_in_s, 1),
        )  # fmt: skip


class Breakers:
    """The breakers of this process by lane. They outlive their lanes, so that a rebalance closes none.

    One that opened before its partition was away for a while has passed its retry time: it starts with a probe.
    """

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float] = time.monotonic) -> None:
        self._policy = policy
        self._clock = clock
        self._lanes: dict[LaneId, LaneBreaker] = {}

    def of(self, lane: LaneId) -> LaneBreaker:
        """The lane's breaker; made on first use."""
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = LaneBreaker(lane, Breaker(self._policy), self._clock)
        return found

    def status(self, lane: LaneId) -> BreakerStatus:
        """What the lane's breaker does; closed when it has none yet."""
        found = self._lanes.get(lane)
        return found.status() if found is not None else BreakerStatus()

    def close(self, lane: LaneId) -> BreakerStatus:
        """See :class:`app.engine.status.BreakerControl`."""
        return self._lanes[lane].close()


def always_closed() -> LaneBreaker:
    """A breaker that never opens: for lanes that have none."""
    return LaneBreaker(LaneId("", 0), Breaker(BreakerPolicy(enabled=False)))

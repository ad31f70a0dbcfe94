"""What protects a service from us, and us from a service: a circuit breaker and a token bucket. Time is an argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long (ms); each probe that fails doubles the pause."""

    failures: int
    """In a row"""
    first_pause_ms: int = 500
    last_pause_ms: int = 10_000


class Breaker:
    """Closed: all may call. Open: nobody. Half-open, when a pause is over: one caller probes, the others wait for its result."""

    def __init__(self, policy: BreakerPolicy, now_ms: Callable[[], int]) -> None:
        self._policy = policy
        self._now_ms = now_ms
        self._failures = 0
        self._pause_ms = policy.first_pause_ms
        self._opened_at_ms = 0

    @property
    def is_closed(self) -> bool:
        return self._failures < self._policy.failures

    @property
    def is_due(self) -> bool:
        """Whether ``allows`` would say yes."""
        # A clock that was set back must not hold the breaker open for as long as it was set back.
        return self.is_closed or not 0 <= self._now_ms() - self._opened_at_ms < self._pause_ms

    def allows(self) -> bool:
        """Whether to call now; report how it went. A probe that never reports is followed by another after a pause."""
        if self.is_closed:
            return True
        if not self.is_due:
            return False
        self._opened_at_ms = self._now_ms()
        return True

    def failed(self) -> None:
        """A call failed."""
        if not self.is_closed:
            self._pause_ms = min(self._policy.last_pause_ms, self._pause_ms * 2)
        self._failures += 1
        if not self.is_closed:
            self._opened_at_ms = self._now_ms()

    def answered(self) -> None:
        """A call succeeded."""
        self._failures, self._pause_ms = 0, self._policy.first_pause_ms


class Budget:
    """At most ``per_s`` calls a second in the long run, and as many at once after a second of rest."""

    def __init__(self, per_s: float, now_ms: Callable[[], int]) -> None:
        self._per_ms = per_s / 1000
        self._most = max(1.0, per_s)
        self._now_ms = now_ms
        self._tokens = self._most
        self._counted_at_ms = now_ms()

    def reserve(self, longest_wait_ms: float) -> float | None:
        """Milliseconds to wait before a call; None: it would be longer than ``longest_wait_ms``, do not call."""
        now_ms = self._now_ms()
        passed_ms = max(0, now_ms - self._counted_at_ms)  # never backwards
        self._counted_at_ms = now_ms
        self._tokens = min(self._most, self._tokens + passed_ms * self._per_ms)
        wait_ms = max(0.0, (1 - self._tokens) / self._per_ms)
        if wait_ms > longest_wait_ms:
            return None
        self._tokens -= 1
        return wait_ms

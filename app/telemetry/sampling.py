"""Which records a trace is recorded of."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence

from app.engine.api import Header, Record
from app.engine.tracing import TRACEPARENT


class Sampler:
    """Those that their producer records, and of those without a trace context one in ``1 / ratio``.

    A micro-batch is recorded with all that are chosen of it, or not at all: under load that makes few traces of large
    micro-batches, where one record of each would cost a trace of every micro-batch.

    Args:
        ratio: 0 to 1; 0: only what producers record.
        max_per_s: more than that are not recorded, whoever wants it.
        clock: seconds, for tests.
    """

    def __init__(self, ratio: float, max_per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._mean_gap = 1 / ratio if ratio else 0.0
        self._skip = self._gap()
        self._max_per_s = max_per_s
        self._clock = clock
        self._tokens, self._filled_at = max_per_s, clock()

    def choose(self, records: Sequence[Record], parents: Mapping[int, tuple[Header, ...]]) -> list[Record]:
        """Those of ``records`` that are to be recorded; ``parents``: their trace headers, by offset."""
        chosen = [r for r in records if r.offset in parents and _is_sampled(parents[r.offset])] if parents else []
        if self._mean_gap:
            while self._skip < len(records):
                record = records[self._skip]
                if record.offset not in parents:
                    chosen.append(record)
                self._skip += 1 + self._gap()
            self._skip -= len(records)
        return chosen[: self._take(len(chosen))] if chosen else chosen

    def _gap(self) -> int:
        """Records to leave out: random, so that it falls into no step with what comes; ``mean_gap - 1`` on average."""
        return round(random.uniform(0, 2 * (self._mean_gap - 1))) if self._mean_gap else 0  # noqa: S311

    def _take(self, wanted: int) -> int:
        """All of ``wanted`` (of more than the whole budget, that) if the budget has them, else none."""
        now = self._clock()
        self._tokens = min(self._max_per_s, self._tokens + (now - self._filled_at) * self._max_per_s)
        self._filled_at = now
        taken = min(wanted, int(self._max_per_s))
        if taken > self._tokens:
            return 0
        self._tokens -= taken
        return taken


def _is_sampled(context: Sequence[Header]) -> bool:
    """The last bit of ``traceparent``'s flags (https://www.w3.org/TR/trace-context/#trace-flags)."""
    return any(name == TRACEPARENT and (value or b"0")[-1:] in b"13579bdf" for name, value in context)

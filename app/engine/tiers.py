"""The waiting rooms of a lane: records of retry tiers that were read before they are due.

A tier's partition is read only while there may be something to read: it is paused while a record of it waits here, and
while nothing has been written to it, so that tiers cost nothing as long as nothing fails. The lane is the only one
who writes to its tiers' partitions; a look now and then finds what it does not know of (a zombie's late write).

Within a tier records are due in about the order in which they were written, so the first one stands for all behind it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from app.engine.api import Record, Retries

#: How soon a partition that was opened is looked at again: has it given something, or is it at its end?
PEEK_S: Final = 0.25
#: How often a partition is opened without a reason.
LOOK_S: Final = 60.0
#: ... while events wait for others of their key: a word that one was discarded comes from outside.
LOOK_WAITING_S: Final = 5.0


class Tier:
    """One tier's partition.

    Args:
        topic: of the tier.
        retries: knows when a record is due.
        set_paused: pauses or resumes fetching of the partition.
        is_at_end: it is read to its end, by an answer later than that time (epoch ms).
        look_s: how often it is opened without a reason.
        clock: monotonic seconds.
        now_ms: wall clock, epoch ms.
    """

    def __init__(
        self,
        topic: str,
        retries: Retries,
        set_paused: Callable[[bool], None],
        is_at_end: Callable[[int], bool],
        look_s: Callable[[], float] = lambda: LOOK_S,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.topic = topic
        self._retries, self._set_paused, self._is_at_end = retries, set_paused, is_at_end
        self._look_s = look_s
        self._clock, self._now_ms = clock, now_ms
        self._held: deque[tuple[int, Record]] = deque()
        self._is_open, self._opened_ms = True, now_ms()
        self.wake_at = clock() + PEEK_S
        """monotonic seconds: when to call ``due`` again"""

    @property
    def held(self) -> int:
        """Records read and not yet due."""
        return len(self._held)

    def hold(self, records: Sequence[Record]) -> None:
        """What was fetched. More may come although it is paused: Faust resumes all partitions after a recovery."""
        self._held.extend(map(self._retries.arrived, records))
        self._pause(True)
        self._sleep_until_due()

    def wrote(self) -> None:
        """The lane has written to it: it is looked at again before long."""
        if not self._held:
            self.wake_at = min(self.wake_at, self._clock() + PEEK_S)

    def due(self) -> list[Record]:
        """Take what is due. To be called at ``wake_at``."""
        now_ms, found = self._now_ms(), list[Record]()
        while self._held and self._held[0][0] <= now_ms:
            found.append(self._held.popleft()[1])
        if self._held:
            self._sleep_until_due()
        elif found or not self._is_open:
            self._pause(False)
            self.wake_at = self._clock() + PEEK_S
        elif self._is_at_end(self._opened_ms):
            self._pause(True)
            self.wake_at = self._clock() + self._look_s()
        else:
            self.wake_at = self._clock() + PEEK_S
        return found

    def _sleep_until_due(self) -> None:
        self.wake_at = self._clock() + max(0, self._held[0][0] - self._now_ms()) / 1000

    def _pause(self, paused: bool) -> None:
        self._is_open, self._opened_ms = not paused, self._now_ms()
        self._set_paused(paused)


class Tiers:
    """All tiers of a lane, by topic."""

    def __init__(self, tiers: Iterable[Tier] = ()) -> None:
        self._tiers = {tier.topic: tier for tier in tiers}

    def __contains__(self, topic: str) -> bool:
        return topic in self._tiers

    def held(self, topic: str) -> int:
        """Records of that tier that are read and wait; 0 for a topic that is no tier."""
        return self._tiers[topic].held if topic in self._tiers else 0

    def hold(self, records: Sequence[Record]) -> None:
        """Fetched records of one tier."""
        self._tiers[records[0].topic].hold(records)

    def wrote(self, topics: Iterable[str]) -> None:
        """Records are in these now."""
        for topic in topics:
            self._tiers[topic].wrote()

    def wait_s(self) -> float | None:
        """Seconds until ``due`` has something to do; None: never."""
        if not self._tiers:
            return None
        return max(0.0, min(tier.wake_at for tier in self._tiers.values()) - time.monotonic())

    def due(self) -> list[list[Record]]:
        """What is due now, a list per tier."""
        now = time.monotonic()
        found = [tier.due() for tier in self._tiers.values() if tier.wake_at <= now]
        return [records for records in found if records]

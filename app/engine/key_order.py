"""Order per key across failures: while an event of a key has failed, the later events of that key wait behind it.

Known as *poison-key parking* (Axon's dead-letter queues keep a sequence like this in a database). An event that waits goes
round in the retry tiers; it may pass when everything of its key that came before it has passed or was discarded. So an event
that is mended and replayed never lands after its successors, and nothing but its key waits for it.

What waits is a list of source offsets per key, in the order in which the events came. It is part of the lane's state: kept in
memory, written to the changelog in the unit that changes it. All is bounded: keys, events per key, and the time
for which a key is held, which is as long as its dead letter can be replayed.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from app.engine.api import Effects, Failure, Record, Retries
from app.engine.held import Changes, Held, stored
from app.engine.order import Turn, failures
from app.engine.status import HeldKey, HeldKeys
from app.engine.store import PartitionStore

log = structlog.get_logger(__name__)

#: Keys held per partition. Events of further keys that fail are not waited for.
MAX_KEYS: Final = 10_000
#: Held keys shown to people, those held longest.
SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class OrderLimits:
    """``max_events`` per key, for ``max_age_ms`` at most; without events, order is not kept."""

    max_events: int
    max_age_ms: int


class KeyOrder:
    """The held keys of one lane (an :class:`app.engine.order.Order`).

    With limits that keep no order it lets go of what it finds held, key by key as events come, so that the setting can
    be switched off and on again.
    """

    def __init__(self, store: PartitionStore, retries: Retries, limits: OrderLimits) -> None:
        self._retries, self._limits = retries, limits
        self._held = dict(stored(store))

    def turn(self, records: Sequence[Record]) -> Turn:
        """See :class:`app.engine.order.Order`."""
        turn = Turn(records)
        if records and records[0].topic in self._retries.topics:
            turn.released = {record.offset for record in records if self._retries.is_release(record)}
        if turn.released or (self._held and self._limits.max_events):
            turn.ready = self._ready(records, turn, _now_ms())
        return turn

    def _ready(self, records: Sequence[Record], turn: Turn, now_ms: int) -> list[Record]:
        """Those whose turn it is if all before them pass."""
        queues, passing, ready = dict[bytes, list[int]](), dict[bytes, int](), list[Record]()
        for record in records:
            key = record.key
            if record.offset in turn.released:
                continue
            if key is None or key not in self._held or not self._limits.max_events:
                ready.append(record)
                continue
            event, queue, nth = self._retries.origin(record), queues.setdefault(key, self._queue(key, now_ms)), passing.get(key, 0)
            if nth == len(queue) or queue[nth] == event:
                passing[key] = min(nth + 1, len(queue))
                ready.append(record)
                continue
            turn.behind.add(record.offset)
            if event not in queue:
                queue.append(event)
        return ready

    def is_overtaken(self, turn: Turn, effects: Effects) -> bool:
        """See :class:`app.engine.order.Order`."""
        return self._limits.max_events > 0 and turn.hold_back(effects)

    def settle(self, records: Sequence[Record], turn: Turn, effects: Effects) -> Changes:
        """See :class:`app.engine.order.Order`."""
        if not self._limits.max_events and not self._held and not turn.released:
            return {}
        failed = failures(effects)
        if not failed and not self._held and not turn.released:
            return {}
        now_ms, queues = _now_ms(), dict[bytes, list[int]]()
        for record in records:
            if record.offset in turn.released:
                effects.drop(record, "discarded")
            key, offset = record.key, record.offset
            if key is None or (key not in self._held and key not in queues and offset not in failed):
                continue
            queue = queues.setdefault(key, self._queue(key, now_ms))
            self._move(record, queue, turn, offset in failed, effects, now_ms)
        return self._changes(queues, now_ms)

    def _queue(self, key: bytes, now_ms: int) -> list[int]:
        """Empty: it is not held, or not any more."""
        held = self._held.get(key)
        return [] if held is None or now_ms - held.since_ms > self._limits.max_age_ms else list(held.events)

    def _move(self, record: Record, queue: list[int], turn: Turn, failed: bool, effects: Effects, now_ms: int) -> None:
        """One record into its place in the queue of its key, or out of it."""
        event = self._retries.origin(record)
        if record.offset in turn.behind:
            self._wait(record, event, queue, effects, now_ms)
        elif not failed:
            if event in queue:
                queue.remove(event)
        elif event not in queue and len(queue) < self._limits.max_events:
            queue.append(event)

    def _wait(self, record: Record, event: int, queue: list[int], effects: Effects, now_ms: int) -> None:
        """Once more round the tiers; a dead letter when too many wait, or when it has waited too long."""
        is_known = event in queue
        if not is_known and len(queue) >= self._limits.max_events:
            message = f"{len(queue)} events of its key wait already"
            effects.dead_letter(record, Failure("aggregate", "too_many_waiting", message, "parked"))
            return
        message = f"waits behind {self._retries.source}:{record.partition}:{queue[0]}" if queue else "waits for its turn"
        effects.waits(record, Failure("aggregate", "waits_behind", message, "parked"), self._retries.wait(record, now_ms))
        if not is_known:
            queue.append(event)

    def _changes(self, queues: Mapping[bytes, list[int]], now_ms: int) -> Changes:
        changes: dict[bytes, Held | None] = {}
        for key, queue in queues.items():
            before = self._held.get(key)
            if not self._limits.max_events or not queue:
                if before is not None:
                    changes[key] = None
            elif before is None or tuple(queue) != before.events:
                is_same_head = before is not None and before.events[0] == queue[0]
                changes[key] = Held(before.since_ms if before is not None and is_same_head else now_ms, tuple(queue))
        return self._bounded(changes, now_ms)

    def _bounded(self, changes: dict[bytes, Held | None], now_ms: int) -> Changes:
        new = [key for key, held in changes.items() if held is not None and key not in self._held]
        if len(self._held) + len(new) <= MAX_KEYS:
            return changes
        changes |= {
            key: None for key, held in self._held.items() if key not in changes and now_ms - held.since_ms > self._limits.max_age_ms
        }
        room = max(0, MAX_KEYS - len(self._held) + sum(1 for held in changes.values() if held is None))
        for key in new[room:]:
            del changes[key]
        if new[room:]:
            log.warning("too_many_keys_held", limit=MAX_KEYS, not_held=len(new) - room)
        return changes

    def accept(self, changes: Changes) -> None:
        """See :class:`app.engine.order.Order`."""
        for key, held in changes.items():
            if held is None:
                self._held.pop(key, None)
            else:
                self._held[key] = held

    @property
    def is_holding(self) -> bool:
        """See :class:`app.engine.order.Order`."""
        return bool(self._held)

    def status(self) -> HeldKeys:
        """See :class:`app.engine.order.Order`."""
        oldest = heapq.nsmallest(SHOWN, self._held.values(), key=lambda held: held.since_ms)
        shown = tuple(HeldKey(held.events[0], held.since_ms, len(held.events) - 1) for held in oldest)
        return HeldKeys(len(self._held), sum(len(held.events) - 1 for held in self._held.values()), shown)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

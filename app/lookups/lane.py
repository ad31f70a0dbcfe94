"""One lane as the lookup writer follows it: what Redis holds of it, and what waits to be written."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from app.engine.status import LaneTable
from app.lookups.keys import Cover, LaneKeys, pack_head, partial_covers
from app.lookups.script import MAX_KEYS_PER_CALL, Apply

LaneState = Literal["live", "catching_up", "rebuilding", "down"]
Loss = Literal["gap", "overflow"]

#: Distinct keys that may wait per lane; about 3 MiB of profiles.
MAX_PENDING_KEYS: Final = 8192


@dataclass(slots=True)
class LookupCounters:
    """Cumulative counts for metrics, all lanes together."""

    units: int = 0
    """Units written by live lanes"""
    keys: int = 0
    """Keys written or deleted in Redis, by whatever way"""
    failures: int = 0
    """Calls to Redis or Kafka that failed"""
    gaps: int = 0
    """Times Redis held another cover than expected"""
    overflows: int = 0
    """Times the queue of a lane was full and dropped"""
    catch_ups: int = 0
    rebuilds: int = 0


class Pending(NamedTuple):
    """What a flush writes. Values are the newest of all units merged, so they hold as of ``stamp``."""

    writes: dict[bytes, bytes | None]
    stamp: int
    source_offset: int
    units: int


class FollowedLane:
    """Not for several threads; every method is free of awaits."""

    __slots__ = (
        "_max_units", "cover", "covered", "epoch", "keys", "lost", "pending", "position", "queueing", "rebuilt",
        "source_offset", "state", "table", "tail", "units",
    )  # fmt: skip

    def __init__(self, table: LaneTable, keys: LaneKeys, max_units: int) -> None:
        self.table = table
        self.keys = keys
        self._max_units = max_units
        self.state: LaneState = "catching_up"
        self.position = table.changelog_offset()
        """Changelog offset up to which the table is durable"""
        self.rebuilt = 0
        """Keys written so far by the rebuild that is under way"""
        self.source_offset = -1
        self.cover = b""
        """The cover as Redis holds it, byte for byte"""
        self.covered = -1
        """Its position"""
        self.queueing = False
        self.tail = self.position
        """Changelog offset up to which Redis is complete once ``pending`` is written"""
        self.pending: dict[bytes, bytes | None] = {}
        self.units = 0
        self.lost = asyncio.Event()
        self.epoch = 0
        """Changes with every loss: an answer to an older epoch's write says nothing any more"""

    @property
    def is_dirty(self) -> bool:
        """Something waits to be written, if only a newer cover."""
        return self.tail != self.covered

    @property
    def behind(self) -> int:
        """Changelog records that Redis does not cover yet."""
        return max(0, self.position - self.covered)

    def offer(self, writes: Mapping[bytes, bytes | None], stamp: int, source_offset: int, previous: int) -> Loss | None:
        """A unit became durable: queue what lookups serve of it. Says why, if the queue had to be given up."""
        self.position, self.source_offset = stamp, source_offset
        if not self.queueing:
            return None
        if previous != self.tail:
            return "gap"
        if self.units >= self._max_units or len(self.pending) >= MAX_PENDING_KEYS:
            return "overflow"
        for prefix, length, base in self.keys.prefixes:
            self.pending.update({base + key[length:]: value for key, value in writes.items() if key.startswith(prefix)})
        self.tail = stamp
        self.units += 1
        return None

    def begin_queueing(self) -> None:
        """From the durable position on, every unit waits in ``pending``."""
        self.pending, self.units = {}, 0
        self.tail = self.position
        self.queueing = True

    def stop_queueing(self) -> None:
        """Drop what waits; units are only counted until ``begin_queueing``."""
        self.pending, self.units = {}, 0
        self.queueing = False

    def lose(self, state: LaneState = "catching_up") -> None:
        """What Redis holds is not known any more: drop the queue and wake the task that synchronises."""
        self.stop_queueing()
        self.state = state
        self.epoch += 1
        self.lost.set()

    def take(self) -> Pending:
        """Everything that waits; the caller writes it, or calls ``lose``."""
        taken = Pending(self.pending, self.tail, self.source_offset, self.units)
        self.pending, self.units = {}, 0
        return taken

    def written(self, cover: bytes, position: int) -> None:
        """Redis holds everything up to ``position``."""
        self.cover, self.covered = cover, position


def flush_calls(lane: FollowedLane, taken: Pending, now_ms: int) -> tuple[list[Apply], bytes]:
    """The calls that write ``taken`` on top of the lane's cover, and the cover they leave."""
    new = Cover(taken.stamp, now_ms, taken.source_offset).pack()
    return plan(lane.keys.cover, lane.cover, new, pack_head(taken.stamp, taken.source_offset), taken.writes), new


def plan(cover_key: bytes, expected: bytes, new: bytes, head: bytes, writes: Mapping[bytes, bytes | None]) -> list[Apply]:
    """Calls of at most 500 keys. Only the last one moves the cover's position; each requires the one before."""
    keys, values = list(writes), list(writes.values())
    count = max(1, -(-len(keys) // MAX_KEYS_PER_CALL))
    covers = [expected, *partial_covers(expected, count - 1), new]
    calls = []
    for step in range(count):
        part = slice(step * MAX_KEYS_PER_CALL, (step + 1) * MAX_KEYS_PER_CALL)
        calls.append(_apply(cover_key, covers[step], covers[step + 1], head, keys[part], values[part]))
    return calls


def _apply(cover_key: bytes, expected: bytes, new: bytes, head: bytes, keys: list[bytes], values: list[bytes | None]) -> Apply:
    kept = [value for value in values if value is not None]
    if len(kept) != len(values):
        pairs = list(zip(keys, values, strict=True))
        keys = [key for key, value in pairs if value is not None] + [key for key, value in pairs if value is None]
    return Apply(cover_key, expected, new, head, keys, kept)

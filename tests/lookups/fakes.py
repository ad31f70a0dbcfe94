"""A Redis, a changelog and a table in memory. The Redis passes the same contract as the real one."""

from __future__ import annotations

import asyncio
import fnmatch
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from redis.exceptions import ConnectionError as RedisConnectionError

from app.engine.api import RESET_KEY, LaneId
from app.lookups.api import LookupView
from app.lookups.changelog import CannotReplay, OnChunk
from app.lookups.keys import STAMP_BYTES, LaneKeys, unpack_value
from app.lookups.script import Apply

AGENT = "process_interactions"
LANE = LaneId(AGENT, 3)
VIEWS = (LookupView(AGENT, "users", b"p", lambda raw: raw.decode()),)
KEYS = LaneKeys("veltrix", LANE, VIEWS)
MARKER = b"\0mark"


class FakeStore:
    """``LookupStore`` in a dictionary. ``down``: it does not answer. ``drop_answers``: it works, and the answer is lost."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.down = False
        self.drop_answers = 0
        self.calls: list[Apply] = []
        self.gate: asyncio.Event | None = None
        self.on_apply: Callable[[], None] = lambda: None

    async def prepare(self) -> None:
        await self._reach()

    async def covers(self, cover_keys: Sequence[bytes]) -> list[bytes | None]:
        await self._reach()
        return [self.data.get(key) for key in cover_keys]

    async def apply(self, calls: Sequence[Apply]) -> list[bool]:
        await self._reach()
        if self.gate is not None:
            await self.gate.wait()
            await self._reach()
        self.calls += calls
        answers = [self._apply(call) for call in calls]
        self.on_apply()
        if self.drop_answers:
            self.drop_answers -= 1
            raise RedisConnectionError("the answer was lost")
        return answers

    async def take_over(self, cover_key: bytes, token: bytes, pattern: bytes) -> None:
        await self._reach()
        self.data[cover_key] = token
        for key in [key for key in self.data if fnmatch.fnmatchcase(key.decode(), pattern.decode())]:
            del self.data[key]

    async def aclose(self) -> None:
        self.down = True

    def lookups(self, keys: LaneKeys = KEYS) -> dict[bytes, bytes]:
        """State key -> raw value of everything that lookups would serve."""
        ((prefix, _, base),) = keys.prefixes
        return {prefix + key[len(base) :]: unpack_value(raw)[2] for key, raw in self.data.items() if key.startswith(base)}

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise RedisConnectionError("down")

    def _apply(self, call: Apply) -> bool:
        if self.data.get(call.cover_key, b"") != call.expected:
            return False
        stamp = int.from_bytes(call.head[:STAMP_BYTES], "big", signed=True)
        for index, key in enumerate(call.keys):
            old = self.data.get(key)
            if old is not None and int.from_bytes(old[:STAMP_BYTES], "big", signed=True) > stamp:
                continue
            if index < len(call.values):
                self.data[key] = call.head + call.values[index]
            else:
                self.data.pop(key, None)
        self.data[call.cover_key] = call.new
        return True


@dataclass
class FakeTable:
    """A lane's RocksDB and its changelog topic; ``durable`` makes one unit of writes durable in both."""

    lane: LaneId = LANE
    changelog_topic: str = "changelog"
    rows: dict[bytes, bytes] = field(default_factory=dict)
    log: list[tuple[bytes, bytes | None]] = field(default_factory=list)

    def changelog_offset(self) -> int:
        return len(self.log) - 1

    def estimated_keys(self) -> int:
        return len(self.rows)

    def scan(self, prefix: bytes, start_after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        keys = sorted(key for key in self.rows if key.startswith(prefix))
        return [(key, self.rows[key]) for key in keys[bisect_right(keys, start_after) :][:limit]]

    def durable(self, writes: dict[bytes, bytes | None]) -> tuple[dict[bytes, bytes | None], int, int]:
        """Apply one unit; its writes with marker, stamp and the stamp of the unit before."""
        previous = self.changelog_offset()
        unit = {**writes, MARKER: b"%d" % previous}
        for key, value in unit.items():
            self.log.append((key, value))
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value
        return unit, self.changelog_offset(), previous

    def reset(self) -> None:
        """As ``veltrix reset`` does it: a record in the changelog, and an empty table."""
        self.log.append((RESET_KEY, b""))
        self.rows.clear()

    def lookups(self) -> dict[bytes, bytes]:
        """What lookups must serve."""
        return {key: value for key, value in self.rows.items() if key.startswith(b"p")}


class FakeChangelog:
    """Replays a table's log in chunks; ``begin`` is where the topic begins, ``error`` is raised once."""

    def __init__(self, table: FakeTable, chunk: int = 3) -> None:
        self.table, self._chunk = table, chunk
        self.begin = 0
        self.error: Exception | None = None
        self.replays: list[tuple[int, int]] = []
        self.on_chunk: Callable[[], None] = lambda: None

    async def replay(self, topic: str, partition: int, after: int, until: int, on_chunk: OnChunk) -> None:
        assert (topic, partition) == (self.table.changelog_topic, self.table.lane.partition)
        self.replays.append((after, until))
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.begin > after + 1:
            raise CannotReplay("trimmed")
        for start in range(after + 1, until + 1, self._chunk):
            stop = min(start + self._chunk, until + 1)
            chunk = dict(self.table.log[start:stop])
            if RESET_KEY in chunk:
                raise CannotReplay("reset")
            self.on_chunk()
            await on_chunk(chunk, stop - 1)

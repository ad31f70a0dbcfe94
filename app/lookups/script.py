"""The one script that writes lookups, and the store that runs it: one round trip for the units of many lanes.

All or nothing, and only on top of exactly what the writer believes Redis to hold: the cover is compared and moved in
the same step that writes the values. A Redis that restarted empty, fell back to an older snapshot, or was written by
another owner of the lane has another cover, and the answer is a gap instead of a silent hole.

Deletes need no tombstones: a value with a lower stamp could only come back through a write that expects an older
cover, and such a write is refused whole; a rebuild first takes the cover away from everybody else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

#: Numbers are compared as numbers: Lua compares strings by locale.
SCRIPT: Final = b"""
local held = redis.call('GET', KEYS[1])
if (held or '') ~= ARGV[1] then
  return 0
end
local head = ARGV[3]
local stamp = struct.unpack('>i8', head)
local values = #ARGV - 3
for i = 2, #KEYS do
  local key = KEYS[i]
  local old = redis.call('GETRANGE', key, 0, 7)
  if #old < 8 or struct.unpack('>i8', old) <= stamp then
    if i - 1 <= values then
      redis.call('SET', key, head .. ARGV[i + 2])
    else
      redis.call('DEL', key)
    end
  end
end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
#: Redis serves nobody else while a script runs: 500 keys take about 1 ms.
MAX_KEYS_PER_CALL: Final = 500
#: Keys packed in one go on the event loop, about 2 ms.
MAX_KEYS_PER_SEND: Final = 2000
SCAN_COUNT: Final = 2000


def pack(*command: bytes) -> bytes:
    """A command as it goes over the wire. In C: redis-py's own packing costs several us per key."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub takes one argument only
    return packed


@dataclass(frozen=True, slots=True)
class Apply:
    """One run of the script: if the cover equals ``expected`` (b"": absent), write and set it to ``new``."""

    cover_key: bytes
    expected: bytes
    new: bytes
    head: bytes
    keys: Sequence[bytes]
    """First those of ``values``, then those to delete"""
    values: Sequence[bytes]

    def pack(self) -> bytes:
        """The command as it goes over the wire."""
        count = b"%d" % (1 + len(self.keys))
        return pack(b"EVALSHA", SHA, count, self.cover_key, *self.keys, self.expected, self.new, self.head, *self.values)


class LookupStore(Protocol):
    """What the writer needs of Redis. Every call may raise RedisError or OSError."""

    async def prepare(self) -> None:
        """Make sure that the script is known."""
        ...

    async def covers(self, cover_keys: Sequence[bytes]) -> list[bytes | None]: ...

    async def apply(self, calls: Sequence[Apply]) -> list[bool]:
        """For each call whether it was applied; False is a gap. Order is kept."""
        ...

    async def take_over(self, cover_key: bytes, token: bytes, pattern: bytes) -> None:
        """Set the cover to ``token``, so that every other writer meets a gap, then delete all keys of the lane."""
        ...

    async def aclose(self) -> None: ...


class RedisStore:
    """The real one."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pool = client.connection_pool

    async def prepare(self) -> None:
        """Load the script: a server that restarted has forgotten it."""
        await self._run([pack(b"SCRIPT", b"LOAD", SCRIPT)])

    async def covers(self, cover_keys: Sequence[bytes]) -> list[bytes | None]:
        """Single GETs: the keys of several lanes live in different slots."""
        return await self._run([pack(b"GET", key) for key in cover_keys])

    async def apply(self, calls: Sequence[Apply]) -> list[bool]:
        """Pipelined, in portions that neither block the event loop nor Redis for long."""
        done: list[bool] = []
        portion: list[bytes] = []
        keys = 0
        for call in calls:
            portion.append(call.pack())
            keys += len(call.keys)
            if keys >= MAX_KEYS_PER_SEND:
                done += [reply == 1 for reply in await self._run(portion)]
                portion, keys = [], 0
        if portion:
            done += [reply == 1 for reply in await self._run(portion)]
        return done

    async def take_over(self, cover_key: bytes, token: bytes, pattern: bytes) -> None:
        """Costs a walk over all keys of the database; a rebuild is rare, and usually Redis is empty then."""
        await self._run([pack(b"SET", cover_key, token)])
        cursor: Any = b"0"
        while True:
            scan = pack(b"SCAN", cursor, b"MATCH", pattern, b"COUNT", b"%d" % SCAN_COUNT)
            ((cursor, keys),) = await self._run([scan])
            if keys:
                await self._run([pack(b"UNLINK", *keys)])
            if cursor == b"0":
                return

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _run(self, commands: Sequence[bytes]) -> list[Any]:
        """Send packed commands at once, read all answers; raises the first error among them."""
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(b"".join(commands))
            replies: list[Any] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as exc:  # an answer like any other: the next ones must still be read
                    replies.append(exc)
        except BaseException:
            await connection.disconnect()  # answers may be on their way; nobody else may get them
            raise
        finally:
            await self._pool.release(connection)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
        return replies

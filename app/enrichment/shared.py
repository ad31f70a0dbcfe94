"""The middle tier: rows that all workers share in Redis, and leases that let one of them fetch a row.

    {app_id}:reference:{<table>}:<version>:<key>          as of (8 bytes, big-endian ms), the row as JSON; nothing: no such row
    {app_id}:reference:{<table>}:<version>:<key>:lease    token of the worker that fetches it

A row is written only by the holder of its lease, and whoever invalidates a row takes the lease away as well: a value that
was read from the database before the change cannot come back after it, from whatever worker.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol, cast

from redis.asyncio import Redis
from redis.commands.core import AsyncScript

from app.enrichment.declaration import ReferenceTable
from app.spans import client_span

_AS_OF: Final = struct.Struct(">q")
LEASE: Final = ":lease"
#: KEYS: row, lease, row, lease...; ARGV: token, then value and time to live (ms) of each row; time to live 0: only release.
FINISH: Final = """
for i = 1, #KEYS, 2 do
  if redis.call('GET', KEYS[i + 1]) == ARGV[1] then
    redis.call('DEL', KEYS[i + 1])
    if ARGV[i + 2] ~= '0' then
      redis.call('SET', KEYS[i], ARGV[i + 1], 'PX', ARGV[i + 2])
    end
  end
end
"""
#: Redis serves nobody else while a script runs: 500 rows take about 1 ms.
MAX_ROWS_PER_CALL: Final = 500


class Write(NamedTuple):
    """A value for Redis, and how long it is kept there (ms)."""

    value: bytes
    keep_ms: int


class SharedTier(Protocol):
    """What the cache needs of Redis. Every call is one round trip in bounded time, and may raise RedisError or OSError."""

    async def read(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def lease(self, keys: Sequence[str], token: bytes, lease_ms: int) -> list[bool]:
        """For each key whether ``token`` now is to fetch it; False: somebody else is at it."""
        ...

    async def finish(self, token: bytes, writes: Mapping[str, Write | None]) -> None:
        """Write the rows whose lease ``token`` still holds, and give up the leases; None: only give up."""
        ...

    async def forget(self, keys: Sequence[str]) -> int:
        """Drop rows and their leases, so that nobody writes what he read before. How many there were."""
        ...

    async def ping(self) -> None: ...


class RedisTier:
    """The real one.

    Args:
        client: its retries must be off; whoever made it closes it.
        timeout_s: for one call.
    """

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._finish: AsyncScript = client.register_script(FINISH)

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """See :class:`SharedTier`."""
        with client_span("redis", "MGET", size=len(keys)):
            async with asyncio.timeout(self._timeout_s):
                return cast("list[bytes | None]", await self._client.mget(keys))

    async def lease(self, keys: Sequence[str], token: bytes, lease_ms: int) -> list[bool]:
        """See :class:`SharedTier`."""
        async with asyncio.timeout(self._timeout_s), self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.set(key + LEASE, token, px=lease_ms, nx=True)
            return [bool(reply) for reply in await pipe.execute()]

    async def finish(self, token: bytes, writes: Mapping[str, Write | None]) -> None:
        """See :class:`SharedTier`. A large batch takes more round trips, to leave Redis to others in between."""
        rows = list(writes.items())
        for start in range(0, len(rows), MAX_ROWS_PER_CALL):
            keys: list[str] = []
            args: list[Any] = [token]
            for key, write in rows[start : start + MAX_ROWS_PER_CALL]:
                keys += (key, key + LEASE)
                args += write or (b"", 0)
            async with asyncio.timeout(self._timeout_s):
                await self._finish(keys=keys, args=args)

    async def forget(self, keys: Sequence[str]) -> int:
        """See :class:`SharedTier`."""
        async with asyncio.timeout(self._timeout_s):
            return await self._client.unlink(*keys, *(key + LEASE for key in keys))

    async def ping(self) -> None:
        """See :class:`SharedTier`."""
        async with asyncio.timeout(self._timeout_s):
            await self._client.ping()


def key_prefix(app_id: str, table: ReferenceTable) -> str:
    """What precedes a row's key. The braces are a Redis Cluster hash tag: one MGET may ask for many rows of a table."""
    return f"{app_id}:reference:{{{table.name}}}:{table.fingerprint}:"


def pack(as_of_ms: int, raw: bytes) -> bytes:
    """As Redis holds it; ``raw`` is empty when there is no such row."""
    return _AS_OF.pack(as_of_ms) + raw


def unpack(held: bytes) -> tuple[int, bytes] | None:
    """As of (epoch ms) and the row's JSON; None when it is not ours."""
    if len(held) < _AS_OF.size:
        return None
    return _AS_OF.unpack_from(held)[0], held[_AS_OF.size :]

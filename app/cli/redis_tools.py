"""Redis for tools: one connection, and the keys that belong to this deployment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.lookups.connect import advice, redis_client
from app.settings import Settings

TIMEOUT_S: Final = 5.0
SCAN_COUNT: Final = 1000


class RedisUnavailable(Exception):
    """Redis does not answer, or refuses. The message says what to check."""


def key_patterns(app_id: str) -> tuple[str, str]:
    """Hot lookups, and how far Redis has followed each changelog. An app_id holds no glob character."""
    return f"{app_id}:lookup:*", f"{app_id}:cover:*"


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[Redis]:
    """A connected client.

    Raises:
        RedisUnavailable: no answer, a wrong password, or an error while in use.
    """
    try:
        client = redis_client(settings, "tools", TIMEOUT_S, connections=1)
    except ValueError as exc:
        raise RedisUnavailable(f"{_address(settings)}: {exc}; check VELTRIX_REDIS_URL") from exc
    try:
        await client.time()
        yield client
    except (RedisError, OSError) as exc:
        raise RedisUnavailable(f"{_address(settings)}: {advice(exc)}") from exc
    finally:
        await client.aclose()


async def count_keys(client: Redis, app_id: str) -> int:
    """Keys of this deployment; reads all key names of the database."""
    found = 0
    for pattern in key_patterns(app_id):
        async for _ in client.scan_iter(match=pattern, count=SCAN_COUNT):
            found += 1
    return found


async def delete_keys(client: Redis, app_id: str) -> int:
    """Delete the keys of this deployment and no others. Returns how many."""
    deleted, batch = 0, list[bytes]()
    for pattern in key_patterns(app_id):
        async for key in client.scan_iter(match=pattern, count=SCAN_COUNT):
            batch.append(key)
            if len(batch) >= SCAN_COUNT:
                deleted += int(await client.unlink(*batch))
                batch.clear()
    return deleted + (int(await client.unlink(*batch)) if batch else 0)


def _address(settings: Settings) -> str:
    """The URL without what may be a password."""
    scheme, _, rest = settings.redis_url.partition("://")
    return f"Redis at {scheme}://{rest.rpartition('@')[2]}"

"""Forgetting all lookups of an agent: for ``veltrix reset``, while its workers are stopped."""

from __future__ import annotations

from app.engine.api import LaneId
from app.lookups.connect import redis_client
from app.lookups.keys import LaneKeys
from app.settings import Settings

CLEAR_TIMEOUT_S = 10.0


async def clear_lookups(settings: Settings, agent: str) -> int:
    """Delete covers first, then values, of every partition. Returns the number of keys.

    Should Redis be away, the workers still notice: the reset is a record of the changelog that they catch up on.

    Raises:
        RedisError, OSError: Redis does not answer.
    """
    client = redis_client(settings, "lookup-clear", CLEAR_TIMEOUT_S, 1)
    try:
        covers = [LaneKeys(settings.app_id, LaneId(agent, number), ()).cover for number in range(settings.partitions)]
        removed = int(await client.unlink(*covers))
        pattern = f"{settings.app_id}:lookup:{{{agent}-*}}:*"
        found: list[bytes] = []
        async for key in client.scan_iter(match=pattern, count=2000):
            found.append(key)
            if len(found) >= 1000:
                removed += int(await client.unlink(*found))
                found = []
        return removed + (int(await client.unlink(*found)) if found else 0)
    finally:
        await client.aclose()

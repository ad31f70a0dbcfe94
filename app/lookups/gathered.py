"""One round trip to Redis for all who ask within a millisecond or two.

An MGET costs a client's CPU the same whether it names three keys or thirty, so callers that come together share one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from app.lookups.connect import advice

log = structlog.get_logger(__name__)

FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 5.0
#: More keys than this go in a round trip of their own: one answer should stay small enough not to hold others up.
MOST_KEYS: Final = 512

Held = Mapping[bytes, bytes | None]


class Circuit:
    """After a failure Redis is not asked for a while, so that an outage does not cost its timeout in every call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause_s = FIRST_PAUSE_S
        self._closed_at = 0.0

    def allows(self) -> bool:
        """Whether to ask. When a pause is over one caller probes; the others wait for its result."""
        now = self._clock()
        if now < self._closed_at:
            return False
        if self._pause_s > FIRST_PAUSE_S:
            self._closed_at = now + FIRST_PAUSE_S
        return True

    def failed(self) -> None:
        """It did not answer: leave it alone, longer each time."""
        self._closed_at = self._clock() + self._pause_s
        self._pause_s = min(LAST_PAUSE_S, self._pause_s * 2)

    def answered(self) -> None:
        """It works."""
        self._pause_s, self._closed_at = FIRST_PAUSE_S, 0.0


class GatheredReads:
    """MGETs of ``client``, each shared by the callers of ``gather_s`` seconds.

    Args:
        timeout_s: for one round trip.
        gather_s: how long the first caller waits for others; 0: not at all.
    """

    def __init__(self, client: Redis, timeout_s: float, gather_s: float) -> None:
        self._client, self._timeout_s, self._gather_s = client, timeout_s, gather_s
        self._open: _Batch | None = None
        self.circuit = Circuit()

    async def get(self, keys: Collection[bytes]) -> Held | None:
        """Values of ``keys`` (and of others), all of one moment; None: Redis does not answer."""
        batch = self._open
        if batch is None or len(batch.keys) + len(keys) > MOST_KEYS:
            if not self.circuit.allows():
                return None
            batch = self._open = _Batch(self._answer)
        batch.keys.update(dict.fromkeys(keys))
        # Whoever gives up waiting must not take the answer away from the others.
        return await asyncio.shield(batch.answer)

    async def aclose(self) -> None:
        """Close Redis."""
        await self._client.aclose()

    async def _answer(self, batch: _Batch) -> Held | None:
        if self._gather_s > 0:
            await asyncio.sleep(self._gather_s)
        if self._open is batch:
            self._open = None
        keys = list(batch.keys)
        try:
            async with asyncio.timeout(self._timeout_s):
                values = cast("list[bytes | None]", await self._client.mget(*keys))
        except (RedisError, OSError) as exc:
            self.circuit.failed()
            log.warning("lookups_not_read", error=advice(exc))
            return None
        self.circuit.answered()
        return dict(zip(keys, values, strict=True))


class _Batch:
    """Keys that one round trip asks for (a dict keeps them in order, each once), and the answer on its way."""

    __slots__ = ("answer", "keys")

    def __init__(self, answer: Callable[[_Batch], Coroutine[Any, Any, Held | None]]) -> None:
        self.keys: dict[bytes, None] = {}
        self.answer = asyncio.create_task(answer(self))

"""One database, one Redis, one clock, and workers in it: where the laws of the reference cache are tried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from app.enrichment.api import Answer, Known
from app.enrichment.cache import ReferenceCache
from app.enrichment.declaration import ReferenceTable
from app.enrichment.opening import build_cache
from app.enrichment.shared import key_prefix
from app.settings import load_settings
from tests.enrichment.fakes import ITEMS, USERS, Clock, FakeShared, FakeStore

PREFIX = key_prefix("veltrix", USERS)
TTL_S, NEGATIVE_S, REVALIDATE_S, ERROR_S = 100, 10, 50, 1000


@dataclass
class World:
    """One database, one Redis, one clock; a worker is a cache of its own."""

    clock: Clock = field(default_factory=Clock)
    store: FakeStore = field(default_factory=FakeStore)

    def __post_init__(self) -> None:
        self.shared = FakeShared(self.clock)
        for key in ("ann", "bob", "cid"):
            self.store.put(key)

    def worker(self, *, users: ReferenceTable = USERS, redis: bool = True, **settings: object) -> ReferenceCache:
        shared = self.shared if redis else None
        return build_cache(
            load_settings(**settings), {"users": users, "items": ITEMS}, self.store, shared, self.clock, self.clock.sleep
        )

    @property
    def queried(self) -> list[str]:
        return [key for query in self.store.queries for key in query]


async def get(cache: ReferenceCache, key: str = "ann") -> Answer:
    return (await cache.get_many("users", [key]))[key]


async def known(cache: ReferenceCache, key: str = "ann") -> Known:
    answer = await get(cache, key)
    assert isinstance(answer, Known)
    return answer


async def settle() -> None:
    """Let what runs in the background run."""
    for _ in range(40):
        await asyncio.sleep(0)

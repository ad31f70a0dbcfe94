"""What the reference cache saves: queries to the database per 1,000 events, by tier; and what a hit costs.

    python -m bench.reference            about 2 minutes; a Redis of its own, SQLite in a temporary folder

Users are drawn by Zipf(1.1) over 100,000, items over 10,000, as in the traffic of ``veltrix generate``; micro-batches of
100 events. Counted warm: every row was asked for once before, and none is past its ttl. A query asks for all missing
rows of a batch at once, so the rows asked for are counted beside the queries.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from app.cli.clickstream import Zipf
from app.cli.seed import seed
from app.enrichment.cache import ReferenceCache
from app.enrichment.gates import REDIS_CALLS
from app.enrichment.join import Joiner
from app.enrichment.opening import open_reference
from app.enrichment.schema import item_row, user_row
from app.lookups.connect import redis_client
from app.settings import Settings, load_settings
from deploy.local.redis import LocalRedis

USERS, ITEMS, EVENTS, BATCH = 100_000, 10_000, 100_000, 100
#: Tier -> rows kept in the process, Redis used.
TIERS: Final = {"no cache": (1, False), "process": (200_000, False), "redis": (1, True), "process and redis": (200_000, True)}

Event = tuple[str, tuple[str, ...]]


def events(seed_number: int) -> Iterator[list[Event]]:
    """Batches of (user id, items): half of the events name an item."""
    chance, users, items = random.Random(seed_number), Zipf(USERS, 1.1), Zipf(ITEMS, 1.1)  # noqa: S311 - traffic, no secret
    for _ in range(EVENTS // BATCH):
        yield [
            (
                str(user_row(users.rank(chance.random()))["user_id"]),
                (str(item_row(items.rank(chance.random()))["product_id"]),) if n % 2 else (),
            )
            for n in range(BATCH)
        ]


def everything() -> Iterator[list[Event]]:
    """Every user and every item once."""
    for start in range(0, USERS, BATCH):
        yield [(f"user-{rank:06d}", (f"p{rank % ITEMS:06d}",)) for rank in range(start, start + BATCH)]


async def play(joiner: Joiner, batches: list[list[Event]]) -> float:
    """CPU seconds."""
    began = time.process_time()
    for batch in batches:
        joined = await joiner.look_up({user for user, _ in batch}, {item for _, items in batch for item in items})
        for user, items in batch:
            joined.member(user, items)
    return time.process_time() - began


async def measure(name: str, settings: Settings, rows: int, with_redis: bool) -> dict[str, object]:
    """One tier: all rows once, then the traffic."""
    wanted = settings.model_copy(update={"reference_cached_rows": rows, "app_id": f"bench-{name.replace(' ', '-')}"})
    redis = redis_client(wanted, "bench", 1.0, REDIS_CALLS + 1) if with_redis else None
    cache: ReferenceCache = await open_reference(wanted, redis)
    joiner = Joiner(cache.tables)
    joiner.cache = cache
    await play(joiner, list(everything()))
    queries, asked = cache.counters.queries, cache.counters.database_rows + cache.counters.negative
    cpu = await play(joiner, list(events(1)))
    counters = cache.counters
    await cache.aclose()
    if redis is not None:
        await redis.aclose()
    return {
        "tier": name,
        "queries_per_1000_events": round((counters.queries - queries) * 1000 / EVENTS, 2),
        "rows_per_1000_events": round((counters.database_rows + counters.negative - asked) * 1000 / EVENTS, 1),
        "cpu_us_per_event": round(cpu / EVENTS * 1e6, 2),
    }


def main() -> None:
    """Print one JSON line per tier."""
    with tempfile.TemporaryDirectory(prefix="veltrix-bench-") as folder, LocalRedis(Path(folder) / "redis") as server:
        settings = load_settings(
            reference_url=f"sqlite:///{Path(folder) / 'reference.sqlite'}", redis_url=server.url, enrichment_enabled=True,
            reference_queries_per_s=100_000, reference_timeout_ms=5_000, reference_redis_timeout_ms=1_000,
        )  # fmt: skip
        asyncio.run(seed(settings, USERS, ITEMS))
        for name, (rows, with_redis) in TIERS.items():
            print(json.dumps(asyncio.run(measure(name, settings, rows, with_redis))), flush=True)


if __name__ == "__main__":
    main()

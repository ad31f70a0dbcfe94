"""Putting the reference cache together from settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from redis.asyncio import Redis
from sqlalchemy.exc import SQLAlchemyError

from app.enrichment.api import ReferenceConfigError, ReferenceCounters, StoreUnavailable
from app.enrichment.cache import ReferenceCache
from app.enrichment.declaration import ReferenceTable, load_declaration
from app.enrichment.gates import DatabaseGate, ReferenceStore, SharedGate, Sleep
from app.enrichment.limits import Breaker, BreakerPolicy, Budget
from app.enrichment.loader import Loader
from app.enrichment.schema import create_default_schema
from app.enrichment.shared import RedisTier, SharedTier
from app.enrichment.store import SqlReferenceStore, make_engine
from app.settings import Settings

log = structlog.get_logger(__name__)

#: A failed query has cost its whole timeout; a failed call to Redis too, and Redis is not needed.
DATABASE_BREAKER: Final = BreakerPolicy(failures=5)
REDIS_BREAKER: Final = BreakerPolicy(failures=1)
#: A holder's query may wait for the budget, for a place, and for its answer, each as long as a query may take.
LEASE_TIMEOUTS: Final = 4


async def open_reference(settings: Settings, redis: Redis | None) -> ReferenceCache:
    """The cache that the settings describe. A database that is away is no reason not to start; close it with ``aclose``.

    Args:
        redis: a client of the caller, who closes it; its retries must be off, its pool hold more than ``REDIS_CALLS`` connections. None: two tiers.

    Raises:
        ReferenceConfigError, ReferenceSchemaError: the declaration or the database is wrong; says what to do.
    """
    tables = load_declaration(settings.reference_file)
    engine = make_engine(settings)
    store = SqlReferenceStore(engine, settings.reference_timeout_ms / 1000)
    try:
        if settings.reference_file is None and engine.dialect.name == "sqlite":
            await create_default_schema(engine)
        await store.check(tables.values())
    except SQLAlchemyError as exc:
        await store.aclose()
        raise ReferenceConfigError(f"{engine.url} cannot be made ({exc.args[0]}): correct VELTRIX_REFERENCE_URL") from exc
    except StoreUnavailable as exc:
        log.warning("reference_database_not_checked", error=str(exc))
    except BaseException:
        await store.aclose()
        raise
    shared = None if redis is None else RedisTier(redis, settings.reference_redis_timeout_ms / 1000)
    return build_cache(settings, tables, store, shared)


def build_cache(
    settings: Settings,
    tables: Mapping[str, ReferenceTable],
    store: ReferenceStore,
    shared: SharedTier | None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    sleep: Sleep = asyncio.sleep,
) -> ReferenceCache:
    """The cache around given tiers; time and sleep for tests."""
    counters = ReferenceCounters()
    database = DatabaseGate(
        store,
        Breaker(DATABASE_BREAKER, now_ms),
        Budget(settings.reference_queries_per_s, now_ms),
        counters,
        concurrency=settings.reference_concurrency,
        wait_ms=settings.reference_timeout_ms,
        sleep=sleep,
    )
    gate = SharedGate(shared, Breaker(REDIS_BREAKER, now_ms), counters)
    lease_ms = LEASE_TIMEOUTS * settings.reference_timeout_ms
    loader = Loader(database, gate, counters, lease_ms=lease_ms, now_ms=now_ms, sleep=sleep)
    return ReferenceCache(
        tables, database, gate, loader, counters, app_id=settings.app_id, rows=settings.reference_cached_rows, now_ms=now_ms
    )

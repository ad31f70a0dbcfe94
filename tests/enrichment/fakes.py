"""A database, a Redis and a clock in memory. The first two pass the same contracts as the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from app.enrichment.api import Rows, StoreUnavailable
from app.enrichment.declaration import ReferenceTable
from app.enrichment.schema import item_row, user_row
from app.enrichment.shared import Write

USERS = ReferenceTable(
    name="users",
    table="users",
    key="user_id",
    columns=("plan", "country", "signup_date"),
    ttl_s=100,
    negative_ttl_s=10,
    stale_while_revalidate_s=50,
    stale_if_error_s=1000,
    ttl_jitter=0,
    default={"plan": "unknown"},
)
ITEMS = ReferenceTable(name="items", table="items", key="product_id", columns=("title", "category", "price"))


class Clock:
    """Time that passes when told to, and while somebody sleeps."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self.now_ms = now_ms

    def __call__(self) -> int:
        return self.now_ms

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * 1000)

    async def sleep(self, seconds: float) -> None:
        self.pass_s(seconds)
        await asyncio.sleep(0)


class FakeStore:
    """``ReferenceStore`` in dictionaries. ``down``: no answer. ``gate``: queries that have read wait there."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, dict[str, Any]]] = {"users": {}, "items": {}}
        self.queries: list[list[str]] = []
        self.down = False
        self.gate: asyncio.Event | None = None
        self.on_query: Callable[[], None] = lambda: None
        self.running = self.most_running = 0

    def seed(self, n_users: int, n_items: int) -> None:
        """As ``seed_reference`` does it."""
        for row in map(user_row, range(n_users)):
            self.rows["users"][row["user_id"]] = row | {"signup_date": row["signup_date"].isoformat()}
        for row in map(item_row, range(n_items)):
            self.rows["items"][row["product_id"]] = row

    def put(self, key: str, **columns: Any) -> None:
        """A user."""
        self.rows["users"][key] = {"plan": "basic", "country": "DE", "signup_date": "2024-05-01"} | columns

    async def fetch(self, table: ReferenceTable, keys: Sequence[str]) -> Rows:
        self.queries.append(list(keys))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            self.on_query()
            rows = self.rows[table.name]
            found = {key: {column: rows[key][column] for column in table.columns} for key in keys if key in rows}
            await (asyncio.sleep(0) if self.gate is None else self.gate.wait())
            if self.down:
                raise StoreUnavailable(table.name, OSError("down"))
            return found
        finally:
            self.running -= 1

    async def aclose(self) -> None:
        self.down = True


class FakeShared:
    """``SharedTier`` in a dictionary. ``down``: it does not answer, and each try is counted."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.data: dict[str, tuple[bytes, int]] = {}
        self.down = False
        self.calls: list[str] = []
        self.before_forget: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        self.gate: asyncio.Event | None = None

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        await self._reach("read")
        found = [self._get(key) for key in keys]
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def lease(self, keys: Sequence[str], token: bytes, lease_ms: int) -> list[bool]:
        await self._reach("lease")
        won = [self._get("lease:" + key) is None for key in keys]
        for key, is_won in zip(keys, won, strict=True):
            if is_won:
                self.data["lease:" + key] = token, self._now_ms() + lease_ms
        return won

    async def finish(self, token: bytes, writes: Mapping[str, Write | None]) -> None:
        await self._reach("finish")
        for key, write in writes.items():
            if self._get("lease:" + key) == token:
                del self.data["lease:" + key]
                if write is not None:
                    self.data[key] = write.value, self._now_ms() + write.keep_ms

    async def forget(self, keys: Sequence[str]) -> int:
        await self._reach("forget")
        await self.before_forget()
        return sum(self.data.pop(name, None) is not None for key in keys for name in (key, "lease:" + key))

    async def ping(self) -> None:
        await self._reach("ping")

    def _get(self, key: str) -> bytes | None:
        value, until_ms = self.data.get(key, (None, 0))
        return value if self._now_ms() < until_ms else None

    async def _reach(self, call: str) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        if self.down:
            raise RedisConnectionError("down")

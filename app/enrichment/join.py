"""Joining events with reference data: which rows a batch needs, and what is added to each event.

What is added is JSON, put together from the bytes that the cache holds: no row is encoded again.

    "reference": {"users": {"as_of": 1764048000000, "row": {...}},
                  "items": {"sku-1": {"as_of": ..., "row": {...}}, "sku-2": {"unavailable": "database_down", "row": {...}}}}

A row that does not exist is the table's default, with ``"found": false``; one past its ttl has ``"stale": true``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from app.enrichment.api import Answer, Known, Unavailable
from app.enrichment.cache import ReferenceCache
from app.enrichment.declaration import ReferenceTable, load_declaration
from app.settings import Settings

_encode: Final = msgspec.json.Encoder().encode


class TableAnswers:
    """What one table says of the keys of a batch."""

    __slots__ = ("head", "parts", "retry")

    def __init__(self, table: ReferenceTable, answers: Mapping[str, Answer]) -> None:
        #: ``"name":``
        self.head = _encode(table.name) + b":"
        #: JSON by key.
        self.parts = {key: answer.part if isinstance(answer, Known) else _without(answer, table) for key, answer in answers.items()}
        #: Keys whose events are to wait, with the reason.
        self.retry: dict[str, str] = {}
        if table.policy == "retry":
            self.retry = {key: answer.reason for key, answer in answers.items() if isinstance(answer, Unavailable)}


@dataclass(slots=True)
class Joined:
    """The answers of a batch."""

    by_user: list[TableAnswers] = field(default_factory=list)
    by_item: list[TableAnswers] = field(default_factory=list)

    def member(self, user_id: str | None, items: tuple[str, ...]) -> bytes:
        """What one event gets: a JSON member with a comma before it; nothing when no table is about it."""
        parts = [table.head + table.parts[user_id] for table in self.by_user if user_id in table.parts]
        if items:
            parts += [table.head + _rows(table.parts, items) for table in self.by_item]
        return b',"reference":{%b}' % b",".join(parts) if parts else b""

    def unavailable(self, user_id: str | None, items: tuple[str, ...]) -> str | None:
        """Why this event has to wait: a table with the policy ``retry`` could not be read. None: it has not."""
        for tables, keys in ((self.by_user, (user_id,)), (self.by_item, items)):
            for table in tables:
                for key in keys if table.retry else ():
                    if key in table.retry:
                        return table.retry[key]
        return None


def _rows(parts: Mapping[str, bytes], items: tuple[str, ...]) -> bytes:
    if len(items) == 1:
        (item,) = items
        return b"{%b:%b}" % (_encode(item), parts[item])
    return b"{%b}" % b",".join([b"%b:%b" % (_encode(item), parts[item]) for item in dict.fromkeys(items)])


def _without(answer: Unavailable, table: ReferenceTable) -> bytes:
    return b'{"unavailable":"%b","row":%b}' % (answer.reason.encode(), _encode(table.default_row))


#: Of a worker that joins nothing.
NOTHING: Final = Joined()


class Joiner:
    """Joins with every declared table that says what it matches. ``cache`` is there once the worker has started.

    Args:
        tables: as declared, by name.
    """

    def __init__(self, tables: Mapping[str, ReferenceTable]) -> None:
        self.cache: ReferenceCache | None = None
        self.tables = dict(tables)
        self._by_user = [table for table in tables.values() if table.match == "user"]
        self._by_item = [table for table in tables.values() if table.match == "item"]

    async def look_up(self, user_ids: Iterable[str], items: Iterable[str]) -> Joined:
        """Answers for the distinct keys of a batch; waits only for what the process does not have."""
        cache = self.cache
        if cache is None:
            return NOTHING
        users, products = list(user_ids), list(items)
        by_user = [TableAnswers(table, await _answers(cache, table, users)) for table in self._by_user]
        by_item = [TableAnswers(table, await _answers(cache, table, products)) for table in self._by_item]
        return Joined(by_user, by_item)

    async def missing(self, user_id: str | None, items: tuple[str, ...]) -> str | None:
        """Why one event would have to wait now; None: it would not."""
        joined = await self.look_up([user_id] if user_id else [], items)
        return joined.unavailable(user_id, items)


def joiner_of(settings: Settings) -> Joiner | None:
    """What the settings declare, without a cache yet; None: switched off.

    Raises:
        ReferenceConfigError: the declaration is wrong.
    """
    return Joiner(load_declaration(settings.reference_file)) if settings.enrichment_enabled else None


async def _answers(cache: ReferenceCache, table: ReferenceTable, keys: list[str]) -> dict[str, Answer]:
    found, missing = cache.get_cached(table.name, keys)
    if missing:
        found |= await cache.get_many(table.name, missing)
    return found

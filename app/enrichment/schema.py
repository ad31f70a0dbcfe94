"""The database that comes with Veltrix: tables ``users`` and ``items``, with made-up rows that never vary.

Ids are those of ``veltrix generate``. For trying out and for tests; a real database has tables of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from sqlalchemy import Column, Date, Float, MetaData, Table, Text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable

METADATA: Final = MetaData()
USERS: Final = Table(
    "users",
    METADATA,
    Column("user_id", Text, primary_key=True),
    Column("plan", Text, nullable=False),
    Column("country", Text, nullable=False),
    Column("signup_date", Date, nullable=False),
)
ITEMS: Final = Table(
    "items",
    METADATA,
    Column("product_id", Text, primary_key=True),
    Column("title", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("price", Float, nullable=False),
)
CHUNK_ROWS: Final = 1000
COUNTRIES: Final = ("DE", "FR", "GB", "BR", "US", "IN", "JP")
CATEGORIES: Final = ("books", "garden", "kitchen", "music", "outdoor", "toys")
FIRST_SIGNUP: Final = dt.date(2020, 1, 1)


def user_row(rank: int) -> dict[str, Any]:
    """The user of this rank; everything about it follows from the rank."""
    return {
        "user_id": f"user-{rank:06d}",
        "plan": "plus" if rank % 5 == 0 else "basic",
        "country": COUNTRIES[rank % len(COUNTRIES)],
        "signup_date": FIRST_SIGNUP + dt.timedelta(days=rank * 7919 % 2000),  # a prime: neighbours are unrelated
    }


def item_row(rank: int) -> dict[str, Any]:
    """The item of this rank; everything about it follows from the rank."""
    category = CATEGORIES[rank % len(CATEGORIES)]
    return {
        "product_id": f"p{rank:06d}",
        "title": f"{category.capitalize()} no. {rank}",
        "category": category,
        "price": round(1.99 + rank * 7919 % 200, 2),
    }


async def create_default_schema(engine: AsyncEngine) -> None:
    """Make ``users`` and ``items`` where they are missing; what is there is left alone."""
    if engine.dialect.name == "sqlite":
        async with engine.connect() as connection:  # kept in the file: readers and one writer do not wait for each other
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    async with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            await connection.execute(CreateTable(table, if_not_exists=True))  # workers may start together


async def seed_reference(engine: AsyncEngine, n_users: int, n_items: int) -> None:
    """Fill both tables with ranks 0 up to n; rows that are there already are left as they are."""
    await _insert(engine, USERS, map(user_row, range(n_users)))
    await _insert(engine, ITEMS, map(item_row, range(n_items)))


async def _insert(engine: AsyncEngine, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    insert = postgresql.insert(table) if engine.dialect.name == "postgresql" else sqlite.insert(table)
    statement = insert.on_conflict_do_nothing()
    async with engine.begin() as connection:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            await connection.execute(statement, chunk)

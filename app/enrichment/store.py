"""The reference database: many keys of one table in one query. SQLAlchemy Core, so identifiers are quoted and never text.

Values come out as plain JSON values whatever the database: a date as ``2024-05-01``, a decimal as a number. So an
answer looks the same from the database, from Redis and from the process cache.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ARRAY, Column, Connection, Integer, MetaData, Select, String, Table, any_, bindparam, inspect, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchTableError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.enrichment.api import ReferenceConfigError, ReferenceSchemaError, Rows, StoreUnavailable
from app.enrichment.declaration import ReferenceTable
from app.settings import Settings
from app.spans import client_span

#: SQLite takes 32,766 parameters a statement since 3.32 (May 2020).
SQLITE_MAX_KEYS: Final = 30_000
#: asyncpg and the server count 64-bit integers; a key beyond that exists nowhere.
MAX_INTEGER: Final = 2**63
#: A connection that a firewall forgot is found out by failing; younger ones are trusted.
RECYCLE_S: Final = 1800
#: A file that was replaced by another one is noticed after this.
SQLITE_RECYCLE_S: Final = 10
DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class SqlReferenceStore:
    """SQLite (aiosqlite) or PostgreSQL (asyncpg). A table that was not checked at the start is at its first ``fetch``.

    Args:
        engine: see ``make_engine``.
        timeout_s: for one query, its connection included.
    """

    def __init__(self, engine: AsyncEngine, timeout_s: float) -> None:
        self.engine = engine
        self._timeout_s = timeout_s
        self._is_postgres = engine.dialect.name == "postgresql"
        self._queries: dict[str, _Query] = {}

    async def check(self, tables: Iterable[ReferenceTable]) -> None:
        """Find every declared table and column, and learn their types.

        Raises:
            ReferenceSchemaError: something is missing; says what, and what to do.
            StoreUnavailable: the database does not answer.
        """
        tables = list(tables)
        try:
            async with asyncio.timeout(self._timeout_s * (1 + len(tables))), self.engine.connect() as connection:
                problems = await connection.run_sync(self._reflect, tables)
        except Exception as exc:
            raise StoreUnavailable(", ".join(table.name for table in tables), exc) from exc
        if problems:
            raise ReferenceSchemaError(problems)

    async def fetch(self, table: ReferenceTable, keys: Sequence[str]) -> Rows:
        """See :class:`ReferenceStore`. A key that cannot be one (``abc`` of an integer column) does not exist."""
        query = self._queries.get(table.name) or await self._late_check(table)
        wanted = query.encode(keys)
        if not wanted:
            return {}
        try:
            with client_span(self.engine.dialect.name, "SELECT", table.table, len(wanted)):
                async with asyncio.timeout(self._timeout_s):
                    found = await self._select(query, wanted)
        except Exception as exc:  # drivers let errors of their own through while they connect
            raise StoreUnavailable(table.name, exc) from exc
        return {name: row for key, row in found if (name := wanted.get(key)) is not None}

    async def aclose(self) -> None:
        """Close all connections."""
        await self.engine.dispose()

    async def _late_check(self, table: ReferenceTable) -> _Query:
        """The database was away at the start. What it lacks now nobody can refuse to start for: it is an outage."""
        try:
            await self.check([table])
        except ReferenceSchemaError as exc:
            raise StoreUnavailable(table.name, exc) from exc
        return self._queries[table.name]

    async def _select(self, query: _Query, wanted: Mapping[Any, str]) -> list[tuple[Any, dict[str, Any]]]:
        """A pooled connection may have died since: that alone is tried again, once, on a new one."""
        try:
            return await self._run(query, list(wanted))
        except DBAPIError as exc:
            if not exc.connection_invalidated:
                raise
        return await self._run(query, list(wanted))

    async def _run(self, query: _Query, keys: list[Any]) -> list[tuple[Any, dict[str, Any]]]:
        size = len(keys) if self._is_postgres else SQLITE_MAX_KEYS
        found = []
        async with self.engine.connect() as connection:
            for start in range(0, len(keys), size):
                result = await connection.execute(query.statement, {"keys": keys[start : start + size]})
                found += [(key, query.row(values)) for key, *values in result]
        return found

    def _reflect(self, connection: Connection, tables: list[ReferenceTable]) -> list[str]:
        problems: list[str] = []
        inspector = inspect(connection)
        for declared in tables:
            schema, _, name = declared.table.rpartition(".")
            if schema and schema not in inspector.get_schema_names():
                problems.append(_no_table(declared, []))
                continue
            try:
                table = Table(name, MetaData(), schema=schema or None, autoload_with=connection, resolve_fks=False)
            except NoSuchTableError:
                problems.append(_no_table(declared, inspector.get_table_names(schema or None)))
                continue
            columns = {column.name: column for column in table.columns}
            found = _problems(declared, columns)
            problems += found
            if not found:
                self._queries[declared.name] = _Query(declared, columns, self._is_postgres)
        return problems


class _Query:
    """How one table is asked."""

    def __init__(self, declared: ReferenceTable, columns: Mapping[str, Column[Any]], is_postgres: bool) -> None:
        key = columns[declared.key]
        self._names = declared.columns
        self._is_integer = isinstance(key.type, Integer)
        self.statement: Select[Any] = select(key, *(columns[name] for name in declared.columns))
        if is_postgres:  # one parameter however many keys: one prepared statement for all batches
            self.statement = self.statement.where(key == any_(bindparam("keys", type_=ARRAY(key.type))))
        else:
            self.statement = self.statement.where(key.in_(bindparam("keys", expanding=True)))

    def encode(self, keys: Iterable[str]) -> dict[Any, str]:
        """Key as the database has it to key as asked for. ``007`` is not 7, and NUL is in no text of PostgreSQL."""
        if self._is_integer:
            return {int(key): key for key in keys if _is_canonical(key)}
        return {key: key for key in keys if "\0" not in key}

    def row(self, values: Sequence[Any]) -> dict[str, Any]:
        """Plain values by column name."""
        return dict(zip(self._names, map(_plain, values), strict=True))


def make_engine(settings: Settings) -> AsyncEngine:
    """An engine for ``reference_url``; it connects at the first query. Every statement commits by itself: they only read.

    Raises:
        ReferenceConfigError: not a URL, or of a database that is not supported.
    """
    url = _url(settings)
    timeout_s = settings.reference_timeout_ms / 1000
    if url.drivername == DRIVERS["sqlite"]:
        if url.database:
            _make_folder(Path(url.database).parent)
        return create_async_engine(url, connect_args={"timeout": timeout_s}, pool_recycle=SQLITE_RECYCLE_S)
    return create_async_engine(
        url,
        isolation_level="AUTOCOMMIT",
        pool_size=settings.reference_concurrency,
        max_overflow=1,  # for the start, and for tools
        pool_timeout=timeout_s,
        pool_recycle=RECYCLE_S,
        pool_reset_on_return=None,  # no transaction, nothing to roll back: a round trip less
        connect_args={
            "timeout": timeout_s,
            # The server gives up by itself, too: what nobody waits for any more must not load it.
            "server_settings": {
                "application_name": f"{settings.app_id}-enrichment",
                "statement_timeout": str(settings.reference_timeout_ms),
            },
        },
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ReferenceConfigError(f"{folder} cannot be made ({exc.strerror}): correct VELTRIX_REFERENCE_URL") from exc


def _url(settings: Settings) -> URL:
    try:
        url = make_url(settings.reference_url)
    except ArgumentError as exc:
        raise ReferenceConfigError("VELTRIX_REFERENCE_URL is not a database URL, such as postgresql://user@host/database") from exc
    driver = DRIVERS.get(url.get_backend_name())
    if driver is None:
        raise ReferenceConfigError(f"VELTRIX_REFERENCE_URL: {url.get_backend_name()} is not supported; use sqlite or postgresql")
    password = settings.reference_password.get_secret_value()
    return url.set(drivername=driver, password=password or url.password)


def _no_table(declared: ReferenceTable, there: Iterable[str]) -> str:
    return (
        f"{declared.name}: no table {declared.table} (there are: {', '.join(sorted(there)) or 'none'}): create it, correct `table`, "
        "or point VELTRIX_REFERENCE_URL at the database that has it"
    )


def _problems(declared: ReferenceTable, columns: Mapping[str, Column[Any]]) -> list[str]:
    there = ", ".join(columns)
    problems = [
        f"{declared.name}: {declared.table} has no column {name} (it has: {there}): add it to the table, or correct the declaration"
        for name in dict.fromkeys((declared.key, *declared.columns))
        if name not in columns
    ]
    key = columns.get(declared.key)
    if key is not None and not isinstance(key.type, String | Integer):
        problems.append(
            f"{declared.name}: key {declared.key} is {key.type}, not text or integer: choose another key, or a view that casts it"
        )
    return problems


def _is_canonical(key: str) -> bool:
    digits = key.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 20 and str(int(key)) == key and abs(int(key)) < MAX_INTEGER


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, dt.date | dt.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, uuid.UUID):
        return str(value)
    return value

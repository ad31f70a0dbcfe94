"""Reference stores: the contract on the fake one and on SQLite, and what only SQL can get wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from app.enrichment.api import ReferenceConfigError, ReferenceSchemaError, StoreUnavailable
from app.enrichment.declaration import ReferenceTable
from app.enrichment.schema import create_default_schema, seed_reference
from app.enrichment.store import SQLITE_MAX_KEYS, SqlReferenceStore, make_engine
from app.settings import load_settings
from tests.enrichment.fakes import ITEMS, USERS, FakeStore
from tests.enrichment.reference_store_contract import SEEDED_ITEMS, SEEDED_USERS, ReferenceStoreContract


def table(name: str = "users", **fields: object) -> ReferenceTable:
    return ReferenceTable.model_validate({"name": name, "table": name, "key": "user_id", "columns": ("plan",)} | fields)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlReferenceStore]:
    """Seeded and not yet checked."""
    engine = make_engine(load_settings(reference_url=f"sqlite:///{tmp_path}/new/reference.sqlite"))
    await create_default_schema(engine)
    await seed_reference(engine, SEEDED_USERS, SEEDED_ITEMS)
    store = SqlReferenceStore(engine, 5.0)
    yield store
    await store.aclose()


async def execute(store: SqlReferenceStore, *statements: str) -> None:
    async with store.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


class TestFakeReferenceStore(ReferenceStoreContract):
    @pytest.fixture
    def store(self) -> FakeStore:
        store = FakeStore()
        store.seed(SEEDED_USERS, SEEDED_ITEMS)
        return store


class TestSqliteReferenceStore(ReferenceStoreContract):
    @pytest.fixture
    async def store(self, sqlite: SqlReferenceStore) -> SqlReferenceStore:
        await sqlite.check([USERS, ITEMS])
        return sqlite


async def test_more_keys_than_a_statement_takes_are_asked_for_in_parts(sqlite: SqlReferenceStore) -> None:
    await sqlite.check([USERS])
    keys = [f"user-{rank:06d}" for rank in range(SQLITE_MAX_KEYS + 1)]

    assert len(await sqlite.fetch(USERS, [*reversed(keys)])) == SEEDED_USERS


async def test_everything_that_the_database_lacks_is_said_at_once_with_its_cure(sqlite: SqlReferenceStore) -> None:
    with pytest.raises(ReferenceSchemaError) as caught:
        await sqlite.check([USERS, table(columns=("plan", "plam")), table("clients"), table(key="id"), table(table="crm.users")])

    assert caught.value.problems == (
        "users: users has no column plam (it has: user_id, plan, country, signup_date): add it to the table, or correct the declaration",
        "clients: no table clients (there are: items, users): create it, correct `table`, or point VELTRIX_REFERENCE_URL at the database that has it",
        "users: users has no column id (it has: user_id, plan, country, signup_date): add it to the table, or correct the declaration",
        "users: no table crm.users (there are: none): create it, correct `table`, or point VELTRIX_REFERENCE_URL at the database that has it",
    )


async def test_a_key_of_another_type_is_refused(sqlite: SqlReferenceStore) -> None:
    with pytest.raises(ReferenceSchemaError, match="key signup_date is DATE, not text or integer: choose another key"):
        await sqlite.check([table(key="signup_date")])


async def test_an_integer_key_is_only_what_the_database_would_write(sqlite: SqlReferenceStore) -> None:
    await execute(
        sqlite, "CREATE TABLE shops (id INTEGER PRIMARY KEY, town TEXT)", "INSERT INTO shops VALUES (7, 'Ulm'), (-1, NULL)"
    )
    shops = table("shops", key="id", columns=("town",))
    await sqlite.check([shops])

    rows = await sqlite.fetch(shops, ["7", "07", "+7", "-1", "-0", "7.0", "x", "", "9" * 30, "\u0667", str(2**63)])

    assert rows == {"7": {"town": "Ulm"}, "-1": {"town": None}}
    assert await sqlite.fetch(shops, ["x"]) == {}


async def test_names_are_quoted(sqlite: SqlReferenceStore) -> None:
    odd = 'we"ird; DROP TABLE users'
    await execute(sqlite, 'CREATE TABLE "select" ("group" TEXT, "we""ird; DROP TABLE users" TEXT)')
    await execute(sqlite, "INSERT INTO \"select\" VALUES ('a', 'b')")
    declared = table("odd", table="select", key="group", columns=(odd,))
    await sqlite.check([declared])

    assert await sqlite.fetch(declared, ["a"]) == {"a": {odd: "b"}}


async def test_values_are_plain_whatever_their_column(sqlite: SqlReferenceStore) -> None:
    await execute(
        sqlite,
        "CREATE TABLE kinds (id TEXT, d DATE, ts DATETIME, n NUMERIC(10, 2), i NUMERIC(10, 2), b BOOLEAN, f FLOAT)",
        "INSERT INTO kinds VALUES ('a', '2024-05-01', '2024-05-01 10:00:00.000000', 1.25, 3, 1, 0.5)",
    )
    kinds = table("kinds", key="id", columns=("d", "ts", "n", "i", "b", "f"))
    await sqlite.check([kinds])

    rows = await sqlite.fetch(kinds, ["a"])

    assert rows == {"a": {"d": "2024-05-01", "ts": "2024-05-01T10:00:00", "n": 1.25, "i": 3, "b": True, "f": 0.5}}
    assert type(rows["a"]["i"]) is int


async def test_seeding_again_changes_nothing(sqlite: SqlReferenceStore) -> None:
    await sqlite.check([USERS])
    await execute(sqlite, "UPDATE users SET plan = 'mine' WHERE user_id = 'user-000001'")
    await create_default_schema(sqlite.engine)
    await seed_reference(sqlite.engine, SEEDED_USERS + 1, SEEDED_ITEMS)

    rows = await sqlite.fetch(USERS, ["user-000001", f"user-{SEEDED_USERS:06d}"])

    assert rows["user-000001"]["plan"] == "mine"
    assert len(rows) == 2


async def test_a_lost_table_is_an_unavailable_store(sqlite: SqlReferenceStore) -> None:
    await sqlite.check([USERS])
    await execute(sqlite, "DROP TABLE users")

    with pytest.raises(StoreUnavailable, match="reference table users cannot be read"):
        await sqlite.fetch(USERS, ["user-000001"])


async def test_a_database_that_cannot_be_opened_is_an_unavailable_store(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is no database. " * 100)
    store = SqlReferenceStore(make_engine(load_settings(reference_url=f"sqlite:///{tmp_path}/text")), 1.0)

    with pytest.raises(StoreUnavailable, match="users, items"):
        await store.check([USERS, ITEMS])
    await store.aclose()


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("nonsense", "is not a database URL, such as postgresql://"),
        ("mysql://u@h/d", "mysql is not supported; use sqlite or postgresql"),
    ],
)
def test_a_wrong_url_is_refused_with_its_cure(url: str, cure: str) -> None:
    with pytest.raises(ReferenceConfigError, match=cure):
        make_engine(load_settings(reference_url=url))


def test_the_password_comes_from_its_own_setting() -> None:
    engine = make_engine(load_settings(reference_url="postgresql://ann@h/d", reference_password="secret"))

    assert (engine.url.drivername, engine.url.password) == ("postgresql+asyncpg", "secret")
    assert "secret" not in str(engine.url)

"""The reference store on a real PostgreSQL: the contract, and what only a server can do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, text

from app.enrichment.api import ReferenceSchemaError, StoreUnavailable
from app.enrichment.schema import create_default_schema, seed_reference
from app.enrichment.store import SqlReferenceStore, make_engine
from app.settings import Settings, load_settings
from deploy.local.ports import free_ports
from deploy.local.postgres import LocalPostgres
from tests.enrichment.fakes import ITEMS, USERS
from tests.enrichment.reference_store_contract import SEEDED_ITEMS, SEEDED_USERS, ReferenceStoreContract
from tests.enrichment.test_store import execute, table

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(postgres: LocalPostgres) -> Settings:
    return load_settings(reference_url=postgres.url, reference_timeout_ms=1000)


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[SqlReferenceStore]:
    """Freshly seeded and checked; one query may take 1 s."""
    engine = make_engine(settings)
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS users, items CASCADE"))
    await create_default_schema(engine)
    await seed_reference(engine, SEEDED_USERS, SEEDED_ITEMS)
    store = SqlReferenceStore(engine, settings.reference_timeout_ms / 1000)
    await store.check([USERS, ITEMS])
    yield store
    await store.aclose()


class TestPostgresReferenceStore(ReferenceStoreContract):
    """The fixture ``store`` of this file."""


async def test_one_statement_serves_batches_of_every_size(store: SqlReferenceStore) -> None:
    sent: list[str] = []
    event.listen(store.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    for size in (1, 2, 500):
        assert len(await store.fetch(USERS, [f"user-{n:06d}" for n in range(size)])) == size

    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert "= ANY ($1::TEXT[])" in sent[0]


async def test_a_schema_may_be_named(store: SqlReferenceStore) -> None:
    await execute(store, "DROP SCHEMA IF EXISTS crm CASCADE", "CREATE SCHEMA crm", "CREATE TABLE crm.people (id bigint, plan text)")
    await execute(store, "INSERT INTO crm.people VALUES (7, 'plus')")
    people = table("people", table="crm.people", key="id")
    await store.check([people])

    assert await store.fetch(people, ["7", "07", "8", str(2**63 - 1), str(2**63)]) == {"7": {"plan": "plus"}}
    with pytest.raises(ReferenceSchemaError, match=r"no table crm.folk \(there are: people\)"):
        await store.check([table("folk", table="crm.folk", key="id")])


async def test_values_are_plain_whatever_their_column(store: SqlReferenceStore) -> None:
    await execute(
        store,
        "DROP TABLE IF EXISTS kinds",
        "CREATE TABLE kinds (id text, d date, ts timestamptz, n numeric, i numeric, b boolean, u uuid, j jsonb)",
        "INSERT INTO kinds VALUES ('a', '2024-05-01', '2024-05-01 10:00Z', 1.25, 3.00, true, "
        "'00000000-0000-0000-0000-000000000001', '[1]')",
    )
    kinds = table("kinds", key="id", columns=("d", "ts", "n", "i", "b", "u", "j"))
    await store.check([kinds])

    ((_, row),) = (await store.fetch(kinds, ["a"])).items()

    assert row["ts"].startswith("2024-05-01T")
    assert {name: value for name, value in row.items() if name != "ts"} == {
        "d": "2024-05-01", "n": 1.25, "i": 3, "b": True, "u": "00000000-0000-0000-0000-000000000001", "j": [1],
    }  # fmt: skip


async def test_a_query_that_takes_too_long_is_given_up_on_both_sides(store: SqlReferenceStore) -> None:
    await execute(store, "CREATE VIEW slow AS SELECT user_id, plan, pg_sleep(20)::text AS s FROM users")
    slow = table("slow", columns=("plan", "s"))
    await store.check([slow])
    started = time.perf_counter()
    with pytest.raises(StoreUnavailable):
        await store.fetch(slow, ["user-000001"])

    assert 0.9 < time.perf_counter() - started < 3
    assert len(await store.fetch(USERS, ["user-000001"])) == 1
    async with store.engine.connect() as connection:
        running = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()"
        )
        assert (await connection.execute(text(running))).scalar_one() == 0


async def test_connections_that_died_are_replaced_without_anybody_noticing(store: SqlReferenceStore) -> None:
    await store.fetch(USERS, ["user-000001"])
    other = make_engine(load_settings(reference_url=str(store.engine.url)))
    async with other.connect() as connection:
        kill = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
        await connection.execute(text(kill))
    await other.dispose()

    assert len(await store.fetch(USERS, ["user-000001"])) == 1


async def test_a_server_that_is_not_there_is_an_unavailable_store() -> None:
    (port,) = free_ports(1)
    store = SqlReferenceStore(make_engine(load_settings(reference_url=f"postgresql://ann@127.0.0.1:{port}/x")), 1.0)

    with pytest.raises(StoreUnavailable, match="users"):
        await store.check([USERS])
    await store.aclose()

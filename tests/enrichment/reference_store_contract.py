"""What any reference store must do: run against the fake one, SQLite and a real PostgreSQL."""

from __future__ import annotations

import pytest

from app.enrichment.gates import ReferenceStore
from tests.enrichment.fakes import ITEMS, USERS

SEEDED_USERS, SEEDED_ITEMS = 2000, 20


class ReferenceStoreContract:
    """Subclasses give the fixture ``store``: seeded with that many users and items, and checked."""

    async def test_rows_are_given_by_key_with_the_declared_columns_in_order(self, store: ReferenceStore) -> None:
        rows = await store.fetch(USERS, ["user-000000", "user-000003"])

        assert rows == {
            "user-000000": {"plan": "plus", "country": "DE", "signup_date": "2020-01-01"},
            "user-000003": {"plan": "basic", "country": "BR", "signup_date": "2024-10-23"},
        }
        assert [tuple(row) for row in rows.values()] == [USERS.columns] * 2

    async def test_a_key_without_a_row_is_left_out(self, store: ReferenceStore) -> None:
        assert list(await store.fetch(USERS, ["nobody", "user-000001", "p000001"])) == ["user-000001"]

    async def test_tables_are_apart(self, store: ReferenceStore) -> None:
        rows = await store.fetch(ITEMS, ["p000007", "user-000001"])

        assert rows == {"p000007": {"title": "Garden no. 7", "category": "garden", "price": 34.99}}

    @pytest.mark.parametrize("key", ["", "'; DROP TABLE users; --", "a\0b", "ünï©ode", "%", "x" * 2000])
    async def test_any_text_is_a_key_that_may_not_exist(self, store: ReferenceStore, key: str) -> None:
        assert list(await store.fetch(USERS, [key, "user-000001"])) == ["user-000001"]

    async def test_a_large_batch_is_answered_whole(self, store: ReferenceStore) -> None:
        keys = [f"user-{rank:06d}" for rank in range(SEEDED_USERS)]

        assert sorted(await store.fetch(USERS, keys)) == keys

    async def test_no_keys_are_no_rows(self, store: ReferenceStore) -> None:
        assert await store.fetch(USERS, []) == {}

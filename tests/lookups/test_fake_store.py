"""The store in memory behaves as the real one."""

from __future__ import annotations

import pytest

from tests.lookups.fakes import FakeStore
from tests.lookups.store_contract import StoreContract


class TestFakeStore(StoreContract):
    @pytest.fixture
    def store(self) -> FakeStore:
        return FakeStore()

"""Lanes and stores that are stopped and closed when a test ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.engine.store import PartitionStore
from tests.engine.support import Rig, new_rig, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    """An empty RocksDB."""
    opened = open_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
async def start_lane(store: PartitionStore) -> AsyncIterator[Callable[..., Rig]]:
    """Starts lanes (arguments as ``new_rig``, without the store)."""
    rigs: list[Rig] = []

    def start(store_: PartitionStore = store, **arguments: Any) -> Rig:
        rig = new_rig(store_, **arguments)
        rig.lane.start()
        rigs.append(rig)
        return rig

    yield start
    for rig in rigs:
        await rig.stop()

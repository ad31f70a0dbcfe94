"""Lanes and stores that are stopped and closed when a test ends."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiokafka.consumer.consumer
import pytest
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.protocol.produce import ProduceRequest_v7

from app.engine.store import PartitionStore
from tests.engine.support import Rig, new_rig, open_store


@pytest.fixture(autouse=True)
def _replacements_end_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine replaces for the whole process is put back: the tests of hooks look at the originals."""
    for owner, name in (
        (aiokafka.consumer.consumer, "Fetcher"),
        (FetchResult, "getall"),
        (FetchRequest_v11, "encode"),
        (ProduceRequest_v7, "encode"),
        (FetchResponse_v11, "decode"),
    ):
        monkeypatch.setattr(owner, name, inspect.getattr_static(owner, name))


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

"""A world of fakes, and real services for the tests that are marked ``integration``."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.postgres import LocalPostgres
from deploy.local.redis import LocalRedis
from tests.enrichment.world import World


@contextmanager
def own_postgres() -> Iterator[LocalPostgres]:
    """A PostgreSQL. Not under pytest's own directory: that is closed to the user whom root becomes."""
    folder = Path(tempfile.mkdtemp(prefix="veltrix-pg-"))
    try:
        with LocalPostgres(folder) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """One PostgreSQL for the run. Do not stop it."""
    with own_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """One Redis for the run. Do not stop it."""
    with LocalRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def world() -> World:
    """A new one, with users ann, bob and cid."""
    return World()

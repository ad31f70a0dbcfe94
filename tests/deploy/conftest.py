"""Fixtures of the demo's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.deploy.fake_sidecar import FakeSidecar


@pytest.fixture
def fake() -> Iterator[Callable[[str], FakeSidecar]]:
    """Makes sidecars by worker name; all are closed in the end."""
    made: list[FakeSidecar] = []

    def make(name: str) -> FakeSidecar:
        made.append(FakeSidecar(name))
        return made[-1]

    yield make
    for sidecar in made:
        sidecar.close()

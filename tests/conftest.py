"""Rules for every test: unit tests first, no setting leaks in from the shell."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests run before integration tests, so that a plain mistake shows within seconds."""
    items.sort(key=lambda item: item.get_closest_marker("integration") is not None)


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VELTRIX_")]:
        monkeypatch.delenv(name)

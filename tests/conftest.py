"""Rules for every test: the fast ones first, no setting leaks in from the shell, as many examples as there is time for."""

from __future__ import annotations

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("quick", max_examples=20, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thorough" if os.environ.get("CI") else "quick"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests, then those that start programs, then those with Kafka and Redis: a plain mistake shows within seconds."""
    items.sort(key=lambda item: 2 if item.get_closest_marker("integration") else 1 if item.get_closest_marker("process") else 0)


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VELTRIX_")]:
        monkeypatch.delenv(name)

"""Rules for every test: the fast ones first, no setting leaks in from the shell, as many examples as there is time for."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("quick", max_examples=20, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=100, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thorough" if os.environ.get("CI") else "quick"))


FAULTS = Path(__file__).parent / "faults"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Unit tests, then those that start programs, then those with Kafka and Redis: a plain mistake shows within seconds."""
    if "faults" not in (config.option.markexpr or ""):  # tests/faults has a rule of its own
        slow = [item for item in items if item.get_closest_marker("faults") and FAULTS not in item.path.parents]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    items.sort(key=lambda item: 2 if item.get_closest_marker("integration") else 1 if item.get_closest_marker("process") else 0)


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("VELTRIX_")]:
        monkeypatch.delenv(name)

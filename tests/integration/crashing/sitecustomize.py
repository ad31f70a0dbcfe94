"""On ``PYTHONPATH`` of a worker: validating an event that holds ``MARKER`` is a segmentation fault, as in a broken C extension.

The interpreter imports this module by itself when it starts, so the product needs no hook for it.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

MARKER = b"segmentation-fault-please"
VICTIM = "app.domain.validation"


class CrashingLoader(importlib.abc.Loader):
    """Loads the victim and puts a crash in front of its ``classify``."""

    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def exec_module(self, module: ModuleType) -> None:
        """Execute, then wrap: whoever imports ``classify`` from now on gets the wrapped one."""
        self._loader.exec_module(module)
        classify = module.classify

        def crashing(record: Any, limits: Any) -> Any:
            if MARKER in (record.value or b""):
                ctypes.string_at(0)
            return classify(record, limits)

        module.classify = crashing  # type: ignore[attr-defined]


class Finder(importlib.abc.MetaPathFinder):
    """Finds the victim where it is, and gives it our loader."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Everything else is found by the others."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == VICTIM else None
        if spec is not None and spec.loader is not None:
            spec.loader = CrashingLoader(spec.loader)
        return spec


sys.meta_path.insert(0, Finder())

"""Which keys lead in the newest closed windows, per declaration of ``TRENDING``. Key: its name; 2 KiB a partition."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from app.domain.trending import Trending
from app.engine.api import View, struct_view

trending: Final[View[Trending]] = replace(struct_view("trending", b"t", Trending, lookup="trending"), lookup_keys="partition")


def interest(results: Mapping[str, Any]) -> int:
    """Views count once, what shows more intent counts more."""
    score: int = results["views"] + 3 * results["adds"] + 10 * results["units"]
    return score


#: Window declaration -> score of its results.
TRENDING: Final[Mapping[str, Callable[[Mapping[str, Any]], int]]] = {"item_5m": interest}

"""How far the index of dead letters is: gauges of ``veltrix admin``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from app.telemetry import catalogue as m


class Follower(Protocol):
    """``app.dead_letters.index.follower.IndexFollower`` fits."""

    added: int
    problem: str | None

    @property
    def lag(self) -> int | None: ...


class IndexMetrics:
    """Lag and size of the index; costs nothing between two scrapes."""

    def __init__(self, catalogue: m.Catalogue, follower: Follower) -> None:
        self._follower = follower
        catalogue.add(self)

    def readings(self) -> Iterator[m.Reading]:
        yield m.INDEX_ADDED, (), self._follower.added
        yield m.INDEX_CONNECTED, (), float(self._follower.problem is None)
        if self._follower.lag is not None:  # an unknown lag is absent, not 0
            yield m.INDEX_LAG, (), self._follower.lag

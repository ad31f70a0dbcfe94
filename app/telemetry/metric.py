"""What a declared metric is, and what the parts of the process say of it at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from app.telemetry.histogram import Histogram

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric. ``name`` is the one people query; ``meaning`` and ``action`` become its help text."""

    name: str
    kind: Kind
    meaning: str
    action: str
    labels: tuple[str, ...] = ()
    unit: str = ""
    bounds: tuple[float, ...] = ()

    @property
    def help(self) -> str:
        """What it says and what to do when it moves."""
        return f"{self.meaning} {self.action}"


Reading = tuple[Metric, tuple[str, ...], float | Histogram | Mapping[str, str]]


class Source(Protocol):
    """A part of the process that can say its numbers. Called on the event loop, once per scrape; must be cheap."""

    def readings(self) -> Iterable[Reading]: ...

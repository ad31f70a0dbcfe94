"""The service level objectives: read from ``slo.toml``, turned into error ratios in PromQL.

Burn rates and windows are those of the Site Reliability Workbook (chapter 5, "Alerting on SLOs", table 5-8).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.telemetry.catalogue import LATENCY
from app.topics import INTERACTIONS

SLO_FILE: Final = Path(__file__).with_name("slo.toml")


class Objective(BaseModel):
    """One promise: this share of the events is good."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["latency", "dead_letters"]
    says: str
    share: Annotated[float, Field(gt=0, lt=1)]
    threshold_ms: int | None = None

    @model_validator(mode="after")
    def _threshold_is_measured(self) -> Objective:
        if self.name == "latency" and (self.threshold_ms is None or self.threshold_ms / 1000 not in LATENCY.bounds):
            bounds = ", ".join(f"{bound * 1000:g}" for bound in LATENCY.bounds)
            raise ValueError(f"threshold_ms of latency must be one of {bounds}: others are not counted")
        return self

    @property
    def sentence(self) -> str:
        """The promise, for people."""
        return f"{self.share:.4g} {self.says.format(threshold_ms=self.threshold_ms)}"

    @property
    def budget(self) -> float:
        """Share of the events that may be bad."""
        return round(1 - self.share, 9)

    def error_ratio(self, window: str) -> str:
        """PromQL of the share of bad events over ``window``; no value without events."""
        if self.name == "latency":
            assert self.threshold_ms is not None, "checked above"
            of = f'source="{INTERACTIONS}",stage="visible"'
            good = f'sum(rate({LATENCY.name}_bucket{{{of},le="{self.threshold_ms / 1000!r}"}}[{window}]))'
            return f"1 - {good} / sum(rate({LATENCY.name}_count{{{of}}}[{window}]))"
        bad = f'sum(rate(veltrix_events_total{{source="{INTERACTIONS}",outcome="dead_lettered"}}[{window}]))'
        return f'{bad} / sum(rate(veltrix_events_consumed_total{{source="{INTERACTIONS}"}}[{window}]))'

    def recorded(self, window: str) -> str:
        """Name of the recording rule of ``error_ratio``."""
        return f"veltrix:slo_{self.name}_errors:ratio_rate{window}"


class Slo(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_days: int = Field(30, ge=1)
    runbooks: str = "docs/runbooks"
    objective: tuple[Objective, ...]


@dataclass(frozen=True, slots=True)
class BurnRate:
    """An alert's two windows: the long one says that it matters, the short one that it still goes on."""

    times: float
    long: str
    short: str
    severity: Literal["page", "ticket"]


BURN_RATES: Final = (
    BurnRate(14.4, "1h", "5m", "page"),
    BurnRate(6, "6h", "30m", "page"),
    BurnRate(3, "1d", "2h", "ticket"),
    BurnRate(1, "3d", "6h", "ticket"),
)
WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")


def load_slo(path: Path = SLO_FILE) -> Slo:
    """The objectives. pydantic's ValidationError says what is wrong with the file."""
    return Slo.model_validate(tomllib.loads(path.read_text()))

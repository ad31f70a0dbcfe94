"""Everything the sidecar needs, in one value that the composition root (or a test) fills in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from app.dead_letters.api import DeadLetters
from app.engine.status import BreakerControl, EngineStatus, Stall, Stalls
from app.lookups.api import LookupReader
from app.settings import Settings
from app.sidecar.breaker import NoBreakers
from app.sidecar.health import LoopLag
from app.sidecar.references import NoReferences, References
from app.telemetry.live import LiveNumbers


def _nothing() -> list[str]:
    return []


class NoWatchdog:
    """Nobody looks for stalls."""

    def stalls(self) -> Sequence[Stall]:
        """See :class:`app.engine.status.Stalls`."""
        return ()


@dataclass(frozen=True, slots=True)
class SidecarDeps:
    """Protocols, so that the sidecar runs without Kafka, Redis or an engine."""

    settings: Settings
    engine: EngineStatus
    lookups: LookupReader
    dead_letters: DeadLetters
    registry: CollectorRegistry
    loop_lag: LoopLag
    live: LiveNumbers
    degraded: Callable[[], list[str]] = _nothing
    """what does not work although the worker is ready: short words (``redis``), or how far a refill is"""
    watchdog: Stalls = field(default_factory=NoWatchdog)
    breakers: BreakerControl = field(default_factory=NoBreakers)
    references: References = field(default_factory=NoReferences)

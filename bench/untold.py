"""A worker that keeps no numbers about what it does, to see what they cost: ``faust -A bench.untold worker``.

Not for use: its metrics stay at zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


def __getattr__(name: str) -> EngineApp:
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from app import main
    from app.engine.api import Effects
    from app.engine.unit import Unit
    from app.telemetry.pipeline import PipelineMetrics

    silent: list[tuple[Any, str]] = [(Unit, "report"), (PipelineMetrics, "unit_done"), (Effects, "step")]
    for owner, method in silent:
        setattr(owner, method, lambda *_: 0.0)
    return main.app

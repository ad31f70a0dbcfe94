"""Where a worker begins: ``faust -A app.main worker`` imports this module and asks for ``app``.

Only then is anything imported or built. (``-A app`` would name the package, which has no Faust app in it.)
"""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


def __getattr__(name: str) -> EngineApp:
    """Build the app when Faust's command line asks for it, so that importing this module starts and opens nothing."""
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    # All that imports make stays, so that walking it again and again for cycles finds none: a fifth of a worker's start.
    gc.disable()
    try:
        globals()["app"] = built = _build()
    finally:
        gc.enable()
    return built


def _build() -> EngineApp:
    import uvloop

    from app.worker import build_from_environment

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return build_from_environment()

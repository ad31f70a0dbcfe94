"""What the agents declare, found: which of them run, and which lookups their tables are served as."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec

import agents
from agents.registry import registry
from app.domain.profiles import to_json
from app.domain.sessions import live_session
from app.domain.totals import totals_to_json
from app.domain.windows import running_windows
from app.engine.declare import AgentDeclaration
from app.lookups.api import LookupView
from app.settings import Settings
from app.topics import ITEM_ACTIVITY
from tables.windows import VIEWS, WINDOWS

#: How a lookup resource shows its values; others are shown as they are stored.
PUBLIC: Final[dict[str, Callable[[Any], Any]]] = {
    "users": to_json,
    "sessions": live_session,
    "totals": totals_to_json,
    "trending": lambda trending: trending,
    **{VIEWS[spec.name].lookup or "": partial(running_windows, spec) for spec in WINDOWS if not spec.is_local},
}


def import_agents() -> frozenset[str]:
    """Import every file under ``agents/``; returns the names that must each be an agent of that file (not ``_helpers``).

    Done when this module is imported, while Faust's command line has the current directory on the import path, and
    in plain sight: an import error stops the worker, where Faust's autodiscovery would leave an agent out silently.
    """
    names = {module.name for module in pkgutil.iter_modules(agents.__path__) if not module.name.startswith("_")}
    for name in names:
        importlib.import_module(f"agents.{name}")
    return frozenset(names - {"registry"})


AGENT_FILES: Final = import_agents()


def wanted(settings: Settings) -> tuple[AgentDeclaration, ...]:
    """The agents that run: all but those that the settings switch off."""
    return tuple(agent for agent in registry if settings.windows_enabled or agent.source != ITEM_ACTIVITY)


def lookup_views(declarations: Sequence[AgentDeclaration]) -> list[LookupView]:
    """Every view that a table declares as a lookup."""
    return [
        LookupView.of(agent.name, view, PUBLIC.get(view.lookup, msgspec.to_builtins))
        for agent in declarations
        for view in agent.views
        if view.lookup is not None
    ]

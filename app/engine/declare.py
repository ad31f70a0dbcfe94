"""Declaring agents: a decorator that records, without an app and without touching Kafka.

``app.worker`` binds what the registry holds to Faust; ``faust -A app.main agents`` lists it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from app.engine.api import Body, View
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class AgentDeclaration:
    """One agent as its file declares it."""

    name: str
    source: str
    body: Body
    views: tuple[View[Any], ...]
    setup: Callable[[Settings], Any]
    help: str
    ticks: bool = False
    linger_ms: int = 0


class DeclarationError(Exception):
    """An agent is declared wrongly; the message names the file to mend."""


class Registry:
    """All declared agents by name."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentDeclaration] = {}

    def __iter__(self) -> Iterator[AgentDeclaration]:
        return iter(self._agents.values())

    def agent(
        self,
        *,
        source: str,
        views: tuple[View[Any], ...] = (),
        setup: Callable[[Settings], Any] = lambda settings: None,
        ticks: bool = False,
        linger_ms: int = 0,
    ) -> Callable[[Body], Body]:
        """Declare the decorated ``async def name(batch) -> Effects`` as the agent ``name`` of topic ``source``.

        Args:
            source: the topic whose records it gets.
            views: the typed parts of its table; prefixes must differ.
            setup: called once with the settings; its result is ``batch.context``.
            ticks: the body is also called while nothing comes, without records (see :class:`app.engine.api.Batch`).
            linger_ms: records may wait that long for company, where nobody waits for what comes of them: an idle agent
                costs as much per batch as a busy one.
        """

        def declare(body: Body) -> Body:
            name = getattr(body, "__name__", "agent")
            prefixes = [view.prefix for view in views]
            if any(not p or p.startswith(b"\0") for p in prefixes) or _overlap(prefixes):
                raise DeclarationError(f"agent {name}: a view prefix must not be empty, start with NUL or begin with another one")
            if name in self._agents:
                raise DeclarationError(f"agent {name} is declared twice")
            help_line = (body.__doc__ or "").strip().split("\n")[0]
            self._agents[name] = AgentDeclaration(name, source, body, views, setup, help_line, ticks, linger_ms)
            return body

        return declare


def _overlap(prefixes: list[bytes]) -> bool:
    """One begins with another: then keys of two views would lie among each other."""
    ordered = sorted(prefixes)
    return any(after.startswith(before) for before, after in itertools.pairwise(ordered))

"""The worker process: Faust's worker with our services around the stream app.

Start order: boot checks (data directory, broker, topics), sidecar, loop monitor, then Faust's app with
recovery. Stop order is the reverse, so the sidecar answers until the stream has stopped.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterable
from typing import IO, Any

import faust
import mode
from mode.types import ServiceT

from app.engine.guard import DataDirLocked, lock_data_dir, refuse
from app.settings import Settings

BootCheck = Callable[[], Awaitable[list[str]]]


class BootChecks(mode.Service):
    """Refuses to start a worker that would lose something or stand still; holds the data directory's lock."""

    def __init__(self, settings: Settings, check: BootCheck, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._settings = settings
        self._check = check
        self._lock: IO[str] | None = None

    async def on_start(self) -> None:
        """Check; every problem is named in one message."""
        try:
            self._lock = lock_data_dir(self._settings.data_dir)
        except (DataDirLocked, OSError) as exc:
            refuse(str(exc))
        problems = await self._check()
        if problems:
            refuse("; ".join(problems))
        relax_garbage_collector()

    async def on_stop(self) -> None:
        """Free the data directory; everything on it is closed by now."""
        if self._lock is not None:
            self._lock.close()


def relax_garbage_collector() -> None:
    """Collect cycles rarely: a unit makes thousands of short-lived tuples and no cycles.

    With the interpreter's defaults the collector walked them again and again (measured: 1.3 of 11 us an event).
    What start-up made stays for good, so it is taken out of every later collection.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


class Background(mode.Service):
    """One coroutine for the life of the worker."""

    def __init__(self, run: Callable[[], Awaitable[None]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._run = run

    async def on_start(self) -> None:
        """Begin."""
        self.add_future(self._run())


class Closing(mode.Service):
    """Closes clients once everything that uses them has stopped."""

    def __init__(self, *closes: Callable[[], Awaitable[None]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._closes = closes

    async def on_stop(self) -> None:
        """Close them all."""
        for close in self._closes:
            await close()


def worker_class(services: Callable[[], list[ServiceT]]) -> type[faust.Worker]:
    """A Faust worker that starts ``services()`` before the stream app and stops them after it."""

    class VeltrixWorker(faust.Worker):
        """See the module's docstring."""

        def on_init_dependencies(self) -> Iterable[ServiceT]:
            return [*services(), *super().on_init_dependencies()]

        def _setup_spinner_handler(self, *args: Any) -> None:
            """No spinner: it writes control characters between log lines."""

    return VeltrixWorker

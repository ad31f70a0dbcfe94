"""A worker that looks at itself in every second turn of a fifth of a second, to see what that costs: ``faust -A bench.blinking worker``.

With its eyes open it keeps metrics and traces records as any worker; with its eyes shut it does neither. Two processes one
after the other differ by more than what is to be measured, on a host that does other things; turns of one process do not.
What each kind of turn took is in ``<data_dir>/turns.json``. Not for use: half of its numbers are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp

FILE: Final = "turns.json"
TURN_S: Final = 0.2


class Turn(msgspec.Struct):
    """Of one kind, in sum."""

    events: int = 0
    cpu_seconds: float = 0.0
    turns: int = 0


class Turns(msgspec.Struct):
    """What a blinking worker did with its eyes open and shut."""

    open: Turn = msgspec.field(default_factory=Turn)
    shut: Turn = msgspec.field(default_factory=Turn)


class Eyes:
    """Open or shut; asked once per micro-batch that becomes durable."""

    def __init__(self, path: Path) -> None:
        self.are_open = True
        self.turns = Turns()
        self._path = path
        self._events = 0
        self._since, self._cpu = 0.0, 0.0

    def saw(self, events: int) -> None:
        """That many became durable; at the end of a turn, blink. What came before the first ones is nobody's."""
        now = time.monotonic()
        if not self._since:
            self._since, self._cpu = now, time.process_time()
            return
        self._events += events
        if now - self._since >= TURN_S:
            self._blink(now)

    def _blink(self, now: float) -> None:
        cpu, turn = time.process_time(), self.turns.open if self.are_open else self.turns.shut
        turn.events += self._events
        turn.cpu_seconds += cpu - self._cpu
        turn.turns += 1
        self._path.write_bytes(msgspec.json.encode(self.turns))
        self.are_open = not self.are_open
        self._events, self._since, self._cpu = 0, now, time.process_time()


def _while_open(eyes: Eyes, owner: Any, method: str, otherwise: object) -> None:
    """``method`` of ``owner`` does nothing and gives ``otherwise`` while the eyes are shut."""
    seeing: Callable[..., object] = getattr(owner, method)

    def blinking(*arguments: object) -> object:
        return seeing(*arguments) if eyes.are_open else otherwise

    setattr(owner, method, blinking)


def __getattr__(name: str) -> EngineApp:
    if name != "app":
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from app import main
    from app.engine.api import Effects
    from app.engine.lane import Lane
    from app.engine.unit import Unit
    from app.settings import load_settings
    from app.telemetry.pipeline import PipelineMetrics
    from app.telemetry.tracing import SpanTracing

    eyes = Eyes(load_settings().data_dir / FILE)
    settle = Lane.make_durable

    def make_durable(self: Lane, settlement: Any, base_offset: int) -> None:
        settle(self, settlement, base_offset)
        eyes.saw(sum(len(unit.computed.records) for unit in settlement.units))

    setattr(Lane, "make_durable", make_durable)  # noqa: B010 - a method is replaced, which mypy does not allow
    for owner, method, otherwise in (
        (Unit, "report", None), (PipelineMetrics, "unit_done", None), (Effects, "step", 0.0), (SpanTracing, "begin", None),
    ):  # fmt: skip
        _while_open(eyes, owner, method, otherwise)
    return main.app

"""Which records of a run may go now: what the engine asks, and the answer where nobody waits for anybody.

See :mod:`app.engine.key_order` for lanes in which events wait for others of their key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from app.engine.api import Effects, Record
from app.engine.held import Changes
from app.engine.status import HeldKeys


@dataclass(slots=True)
class Turn:
    """Records of one run of the body. Offsets in ``behind`` wait for others, those in ``released`` are not events at all."""

    ready: Sequence[Record]
    behind: set[int] = field(default_factory=set)
    released: set[int] = field(default_factory=set)

    def hold_back(self, effects: Effects) -> bool:
        """Take out what has passed behind a failed event of its own key; whether there was any (then run again)."""
        failed = failures(effects)
        if not failed:
            return False
        blocked, overtaking = set[bytes | None](), set[int]()
        for record in self.ready:
            if record.offset in failed:
                blocked.add(record.key)
            elif record.key is not None and record.key in blocked:
                overtaking.add(record.offset)
        self.ready = [record for record in self.ready if record.offset not in overtaking]
        self.behind |= overtaking
        return bool(overtaking)


class Order(Protocol):
    """Which records may run now, and what follows from how they fared."""

    def turn(self, records: Sequence[Record]) -> Turn:
        """Divide ``records`` (of one topic, in offset order)."""
        ...

    def is_overtaken(self, turn: Turn, effects: Effects) -> bool:
        """The run does not count: events have passed that must wait. ``turn`` is now without them."""
        ...

    def settle(self, records: Sequence[Record], turn: Turn, effects: Effects) -> Changes:
        """Give what did not run its outcome; returns what changes if the run counts."""
        ...

    def accept(self, changes: Changes) -> None:
        """The run counts."""
        ...

    @property
    def is_holding(self) -> bool:
        """Whether anything is held."""
        ...

    def status(self) -> HeldKeys:
        """What is held right now."""
        ...


class AsTheyCome:
    """No order but that in which records are read: for lanes without retry tiers."""

    is_holding = False

    def turn(self, records: Sequence[Record]) -> Turn:
        """All of them."""
        return Turn(records)

    def is_overtaken(self, turn: Turn, effects: Effects) -> bool:
        """Never."""
        return False

    def settle(self, records: Sequence[Record], turn: Turn, effects: Effects) -> Changes:
        """Nothing."""
        return {}

    def accept(self, changes: Changes) -> None:
        """Nothing."""

    def status(self) -> HeldKeys:
        """None."""
        return HeldKeys()


def failures(effects: Effects) -> Collection[int]:
    """Offsets of the records that did not pass."""
    return {record.offset for record, _ in (*effects.retrying, *effects.dead_letters)}

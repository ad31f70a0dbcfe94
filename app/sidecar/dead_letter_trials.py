"""What is told of letters that are tried: would they pass, and which published results would change?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from app.dead_letters.api import DeadLetterRecord
from app.dead_letters.headers import rfc3339
from app.domain.hindsight import Touched


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one letter that was tried: where it was refused and why, or the results that it belongs to."""

    stage: str | None = None
    reason: str | None = None
    message: str | None = None
    touched: list[Touched] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """No rule refuses it."""
        return self.stage is None


Validate = Callable[[DeadLetterRecord, bytes | None], Awaitable[Trial]]
"""A letter, and a value in place of its own; nothing is written anywhere"""


class ResultChange(BaseModel):
    """What a replay now would do to one result (`sessions`, or a window by name). Windows are counted once, whatever their key.

    `open`: results that are still to come and count it; `revised`: published ones that are published again; `left_out`: published
    ones that stay as they are, without these events. `first` and `last` bound the published ones.
    """

    result: str
    open: int
    revised: int
    left_out: int
    first: str | None
    last: str | None


class Verdict(BaseModel):
    """What the deployed rules say of a record now. `stage`, `reason` and `message` are null when it passes."""

    passes: bool
    stage: str | None = None
    reason: str | None = None
    message: str | None = None
    results: list[ResultChange] = Field(default_factory=list)

    @classmethod
    def of(cls, trial: Trial) -> Verdict:
        """``trial`` as JSON."""
        return cls(
            passes=trial.passes, stage=trial.stage, reason=trial.reason, message=trial.message, results=changes(trial.touched)
        )


class Verdicts(BaseModel):
    """What would become of them. `failed`: how many by stage and reason; a patch that does not fit is one of them."""

    checked: int
    passed: int
    failed: dict[str, int]
    results: list[ResultChange] = Field(default_factory=list)


def changes(touched: Iterable[Touched]) -> list[ResultChange]:
    """All of ``touched``, by result."""
    by_result: dict[str, set[Touched]] = {}
    for one in touched:
        by_result.setdefault(one.result, set()).add(one)
    return [_change(result, found) for result, found in by_result.items()]


def _change(result: str, found: set[Touched]) -> ResultChange:
    published = [one for one in found if one.fate != "open"]
    count = {fate: sum(1 for one in found if one.fate == fate) for fate in ("open", "revised", "left_out")}
    first, last = (min(one.start_ms for one in published), max(one.end_ms for one in published)) if published else (None, None)
    return ResultChange(
        result=result, **count, first=None if first is None else rfc3339(first), last=None if last is None else rfc3339(last)
    )

"""Aggregates that are estimates, because the exact ones would grow with the number of values: distinct and top-k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from app.domain import hyperloglog
from app.domain.hyperloglog import Sketch

E = TypeVar("E")
Text = Callable[[E], str | None]


@dataclass(frozen=True, slots=True)
class Distinct(Generic[E]):
    """How many different values a text field has: an estimate, standard error 1.6 % (``hyperloglog``)."""

    field: Text[E]

    def initialize(self) -> Sketch:
        return {}

    def add(self, acc: Sketch, event: E, /) -> Sketch:
        value = self.field(event)
        return acc if value is None else hyperloglog.add_text(acc, value)

    def merge(self, left: Sketch, right: Sketch, /) -> Sketch:
        return hyperloglog.merge(left, right)

    def result(self, acc: Sketch, /) -> int:
        return hyperloglog.estimate(acc)

    def copy(self, acc: Sketch, /) -> Sketch:
        return hyperloglog.copy_sketch(acc)


@dataclass(frozen=True, slots=True)
class TopK(Generic[E]):
    """The ``k`` most frequent values of a text field, ``[value, count]`` from the top (Space-Saving).

    Exact, in any order, while there are at most ``capacity`` different values. Beyond that, of n events: a count is
    never too low and at most ``n / capacity`` too high, and every value with more than ``n / capacity`` events is
    held; which of the others are may depend on the order. The same order gives the same result.

    Raises:
        ValueError: a capacity below ``k``, or a ``k`` below 1.
    """

    field: Text[E]
    k: int = 10
    capacity: int = 100

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.capacity:
            raise ValueError(f"top-k needs 1 <= k <= capacity, not k {self.k} and capacity {self.capacity}")

    def initialize(self) -> dict[str, int]:
        return {}

    def add(self, acc: dict[str, int], event: E, /) -> dict[str, int]:
        value = self.field(event)
        if value is None:
            return acc
        number = acc.get(value)
        if number is None:
            number = 0 if len(acc) < self.capacity else acc.pop(min(acc, key=acc.__getitem__))
        acc[value] = number + 1
        return acc

    def merge(self, left: dict[str, int], right: dict[str, int], /) -> dict[str, int]:
        """Of a value that only one side holds, the other had at most its least count, if it was full."""
        below_left, below_right = self._unseen(left), self._unseen(right)
        union = {value: left.get(value, below_left) + right.get(value, below_right) for value in left.keys() | right.keys()}
        return dict(_ranked(union)[: self.capacity])

    def result(self, acc: dict[str, int], /) -> list[list[str | int]]:
        return [[value, number] for value, number in _ranked(acc)[: self.k]]

    def copy(self, acc: dict[str, int], /) -> dict[str, int]:
        return acc.copy()

    def _unseen(self, acc: dict[str, int]) -> int:
        return min(acc.values()) if len(acc) >= self.capacity else 0


def _ranked(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

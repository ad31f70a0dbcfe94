"""Aggregates of windows, declared as values: ``{"views": Count(is_view), "revenue": Sum(revenue_of)}``.

    initialize() -> accumulator             of no event
    add(accumulator, event) -> accumulator  may change its argument, which is the caller's own
    merge(left, right) -> accumulator       changes neither
    result(accumulator) -> value            for people: a number, None (of no event), or a list

Accumulators are what MessagePack holds: 64-bit integers, lists, mappings, bytes. ``merge`` is associative and commutative
and the order of ``add`` does not matter, for all but ``TopK`` beyond its capacity (``estimates``): fields are integers (money in
millionths, see ``amounts.micros``) because sums of floats are not. A field that gives None skips the event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from app.domain.amounts import saturate

E = TypeVar("E")
E_contra = TypeVar("E_contra", contravariant=True)
A = TypeVar("A")

Where = Callable[[E], object]
Number = Callable[[E], int | None]


class Aggregate(Protocol[E_contra, A]):
    """What a window can compute."""

    def initialize(self) -> A: ...
    def add(self, acc: A, event: E_contra, /) -> A: ...
    def merge(self, left: A, right: A, /) -> A: ...
    def result(self, acc: A, /) -> Any: ...

    def copy(self, acc: A, /) -> A:
        """An accumulator that ``add`` may change."""
        ...


class Whole:
    """Accumulators that are never changed in place."""

    __slots__ = ()

    def copy(self, acc: A, /) -> A:
        return acc


@dataclass(frozen=True, slots=True)
class Count(Whole, Generic[E]):
    """Events, or those ``where`` something true is returned."""

    where: Where[E] | None = None

    def initialize(self) -> int:
        return 0

    def add(self, acc: int, event: E, /) -> int:
        where = self.where
        return acc + 1 if where is None or where(event) else acc

    def merge(self, left: int, right: int, /) -> int:
        return left + right

    def result(self, acc: int, /) -> int:
        return acc


@dataclass(frozen=True, slots=True)
class Sum(Whole, Generic[E]):
    """Sum of a field; stops at 64 bits."""

    field: Number[E]

    def initialize(self) -> int:
        return 0

    def add(self, acc: int, event: E, /) -> int:
        value = self.field(event)
        return acc if value is None else saturate(acc + value)

    def merge(self, left: int, right: int, /) -> int:
        return saturate(left + right)

    def result(self, acc: int, /) -> int:
        return acc


class _Extreme(Whole):
    """One of the values of a field; subclasses say which of two."""

    __slots__ = ()

    field: Number[Any]

    def initialize(self) -> int | None:
        return None

    def add(self, acc: int | None, event: Any, /) -> int | None:
        return self.merge(acc, self.field(event))

    def merge(self, left: int | None, right: int | None, /) -> int | None:
        if left is None or right is None:
            return right if left is None else left
        return self._of(left, right)

    def result(self, acc: int | None, /) -> int | None:
        return acc

    def _of(self, left: int, right: int) -> int:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Min(_Extreme, Generic[E]):
    """Least value of a field."""

    field: Number[E]

    def _of(self, left: int, right: int) -> int:
        return min(left, right)


@dataclass(frozen=True, slots=True)
class Max(_Extreme, Generic[E]):
    """Greatest value of a field."""

    field: Number[E]

    def _of(self, left: int, right: int) -> int:
        return max(left, right)


@dataclass(frozen=True, slots=True)
class Mean(Generic[E]):
    """Mean of a field: the accumulator is ``[how many, sum]``."""

    field: Number[E]

    def initialize(self) -> list[int]:
        return [0, 0]

    def add(self, acc: list[int], event: E, /) -> list[int]:
        value = self.field(event)
        if value is not None:
            acc[0] += 1
            acc[1] = saturate(acc[1] + value)
        return acc

    def merge(self, left: list[int], right: list[int], /) -> list[int]:
        return [left[0] + right[0], saturate(left[1] + right[1])]

    def result(self, acc: list[int], /) -> float | None:
        return acc[1] / acc[0] if acc[0] else None

    def copy(self, acc: list[int], /) -> list[int]:
        return acc.copy()


@dataclass(frozen=True, slots=True)
class Ratio(Generic[E]):
    """One numeric aggregate by another: ``Ratio(Count(is_add), Count(is_view))``; None when the second has 0 or None."""

    numerator: Aggregate[E, Any]
    denominator: Aggregate[E, Any]

    def initialize(self) -> list[Any]:
        return [self.numerator.initialize(), self.denominator.initialize()]

    def add(self, acc: list[Any], event: E, /) -> list[Any]:
        acc[0] = self.numerator.add(acc[0], event)
        acc[1] = self.denominator.add(acc[1], event)
        return acc

    def merge(self, left: list[Any], right: list[Any], /) -> list[Any]:
        return [self.numerator.merge(left[0], right[0]), self.denominator.merge(left[1], right[1])]

    def result(self, acc: list[Any], /) -> float | None:
        above, below = self.numerator.result(acc[0]), self.denominator.result(acc[1])
        return float(above / below) if below and above is not None else None

    def copy(self, acc: list[Any], /) -> list[Any]:
        return [self.numerator.copy(acc[0]), self.denominator.copy(acc[1])]

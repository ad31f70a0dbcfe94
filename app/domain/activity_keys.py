"""What windows are of, and which activities they want: keys (``item_of``, ``event_of``, ``category_of``) and conditions.

An event that names ten items gives ten activities. Where no window looks at the items of such an event (a list that was
shown), it gives one: ``names_with_items`` tells by the declarations, before anything is read of them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Final

from app.domain.activities import Activity, KeyOf
from app.domain.aggregates import Count
from app.domain.clickstream import NAMES
from app.domain.session_events import NameCode
from app.domain.windows import WindowSpec

Where = Callable[[Activity], bool]
_CODES: Final[dict[str, NameCode]] = {name: code for code, name in NAMES.items()}


def item_of(activity: Activity) -> str | None:
    """Windows per item."""
    return activity.item


def event_of(activity: Activity) -> str | None:
    """Windows per event name; an event with several items counts once."""
    if activity.line:
        return None
    name = activity.name
    return NAMES.get(name) or f"${name}" if isinstance(name, int) else name


def category_of(activity: Activity) -> str | None:
    """Windows per category, as the event itself names it."""
    return activity.category


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


class Named:
    """Events with one of these names (``$page`` and the like for calls that have none): a ``where`` that needs no activity to tell."""

    __slots__ = ("names",)

    def __init__(self, *names: str) -> None:
        self.names = frozenset[NameCode](_CODES.get(name, name) for name in names)
        """as they are stored"""

    def __call__(self, activity: Activity) -> bool:
        return activity.name in self.names


def is_of_names(spec: WindowSpec[Activity]) -> bool:
    """All that these windows tell follows from the names of events: what they say of items is not looked at."""
    counts = [aggregate.where for aggregate in spec.aggregates.values() if isinstance(aggregate, Count)]
    wheres = [spec.where, *counts]
    return (
        spec.key is event_of
        and len(counts) == len(spec.aggregates)
        and all(where is None or isinstance(where, Named) for where in wheres)
    )


def names_with_items(specs: Iterable[WindowSpec[Activity]]) -> Container[NameCode]:
    """Names of the events of which some windows look at the items. The items of the others need not be told apart."""
    wheres = [spec.where for spec in specs if not is_of_names(spec)]
    if not all(isinstance(where, Named) for where in wheres):
        return _Everything()
    return frozenset[NameCode]().union(*[where.names for where in wheres if isinstance(where, Named)])


def only(key_of: KeyOf, wheres: Iterable[Where | None]) -> KeyOf:
    """``key_of`` for activities that any of ``wheres`` wants (None wants all)."""
    wanted = tuple(wheres)
    if None in wanted:
        return key_of
    filters = tuple({where for where in wanted if where is not None})
    if len(filters) == 1:
        (where,) = filters
        if isinstance(where, Named):
            names = where.names
            return lambda activity: key_of(activity) if activity.name in names else None
        return lambda activity: key_of(activity) if where(activity) else None

    def key_of_wanted(activity: Activity) -> str | None:
        return key_of(activity) if any(where(activity) for where in filters) else None

    return key_of_wanted

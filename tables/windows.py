"""Every windowed result, one declaration each: key, window, aggregates. To add one, add it here; nothing else needs to know.

Results go to ``item-windows``, the running ones to lookups. Money is in millionths. See ``app.domain.windows`` for what
a declaration may say, ``app.domain.activity_keys`` for keys and conditions, ``app.domain.activities`` for fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from app.domain.activities import Activity, KeyOf
from app.domain.activity_keys import Named, event_of, item_of, names_with_items, only
from app.domain.aggregates import Aggregate, Count, Sum
from app.domain.amounts import micros, saturate
from app.domain.clickstream import TRACK_CODES
from app.domain.partials import KeyPartials, decode_partials
from app.domain.upstreams import Timed
from app.domain.window_fold import WindowFold
from app.domain.windows import KeyWindows, WindowSpec, decode_windows
from app.engine.api import State, View, put_all, struct_view

MINUTE: Final = 60_000

_COUNTED: Final = ("Product Viewed", "Product Added", "Order Completed")
_VIEWED, _ADDED, _BOUGHT = (TRACK_CODES[name] for name in _COUNTED)
#: What windows per item look at; an item in a list that was shown is not.
is_counted: Final = Named(*_COUNTED)


def is_view(activity: Activity) -> bool:
    """An item was looked at."""
    return activity.name == _VIEWED


def is_add(activity: Activity) -> bool:
    """An item was put into a cart."""
    return activity.name == _ADDED


def units_of(activity: Activity) -> int | None:
    """Units bought of an item."""
    return activity.units if activity.name == _BOUGHT else None


def revenue_of(activity: Activity) -> int | None:
    """What was paid for an item, in millionths."""
    return saturate(activity.units * (micros(activity.price) or 0)) if activity.name == _BOUGHT else None


_ITEM: Final[Mapping[str, Aggregate[Activity, Any]]] = {
    "views": Count(is_view),
    "adds": Count(is_add),
    "units": Sum(units_of),
    "revenue_micros": Sum(revenue_of),
}
_EVENT: Final[Mapping[str, Aggregate[Activity, Any]]] = {"events": Count()}

#: All of them; names are those of lookups and of results.
WINDOWS: Final[tuple[WindowSpec[Activity], ...]] = (
    WindowSpec("item_5m", 5 * MINUTE, hop_ms=MINUTE, also={"item_1m": MINUTE}, key=item_of, where=is_counted, aggregates=_ITEM),
    WindowSpec("event_5m", 5 * MINUTE, hop_ms=MINUTE, also={"event_1m": MINUTE}, key=event_of, is_local=True, aggregates=_EVENT),
)
#: The declaration that lookups of items show.
ITEMS: Final = "item_5m"
_SENT: Final = tuple(spec for spec in WINDOWS if not spec.is_local)
#: Names of the events whose items are told apart.
WITH_ITEMS: Final = names_with_items(WINDOWS)
#: By which keys activities are dealt out, by name.
KEYS: Final[dict[str, KeyOf]] = {
    spec.key.__name__: only(spec.key, [other.where for other in _SENT if other.key is spec.key]) for spec in _SENT
}


def window_view(spec: WindowSpec[Activity]) -> View[KeyWindows]:
    """The stored windows of one declaration, by key; those of a local one are a partition's own and no lookup."""
    lookup = None if spec.is_local else "items" if spec.name == ITEMS else spec.name
    view = struct_view(f"windows_{spec.name}", b"w%b/" % spec.name.encode(), KeyWindows, lookup)
    return replace(view, decode=decode_windows, due_ms=attrgetter("due_ms"), lookup_keys="plain")


def parts_view(spec: WindowSpec[Activity]) -> View[KeyPartials]:
    """What source partitions have closed of one local declaration, by key."""
    view = struct_view(f"parts_{spec.name}", b"x%b/" % spec.name.encode(), KeyPartials)
    return replace(view, decode=decode_partials, due_ms=attrgetter("due_ms"))


#: Of ``aggregate_items``, and of ``process_interactions`` for local declarations.
VIEWS: Final[dict[str, View[KeyWindows]]] = {spec.name: window_view(spec) for spec in WINDOWS}
PARTS: Final[dict[str, View[KeyPartials]]] = {spec.name: parts_view(spec) for spec in WINDOWS if spec.is_local}


def fold_windows(
    state: State, spec: WindowSpec[Activity], taken: Mapping[str, Sequence[Timed]], watermark_ms: int
) -> tuple[WindowFold[Activity], list[Activity]]:
    """Fold activities into the stored windows of one declaration, close what is due, store; the fold and who came too late.

    Args:
        taken: activities by key.
    """
    view, late = state.view(VIEWS[spec.name]), list[Activity]()
    due = view.due(watermark_ms)
    fold = WindowFold(spec, view.get_many(taken.keys() | due))
    for key, activities in taken.items():
        where = spec.where
        late += fold.add_all(key, activities if where is None else [timed for timed in activities if where(timed[0])])
    fold.close_all(due, watermark_ms)
    put_all(view, fold.states())
    return fold, late

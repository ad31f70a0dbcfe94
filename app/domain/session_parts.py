"""Parts of sessions: events of one user that belong together, counted, within one cell of the length limit.

Everything in a part is a function of the set of its events, whatever their order: counts and integer sums add up,
first and last are minima and maxima (ties decided by the text), and where a mapping is bounded it keeps the least
keys, with exact values, since a key that leaves can never be among the least again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from app.domain.amounts import saturate
from app.domain.session_events import NameCode, Order, SessionEvent

#: Custom event names that one part lists, the first in the alphabet; all others are counted together.
MAX_CUSTOM_NAMES: Final = 24
#: Purchased products that one part lists, the first in the alphabet; ``units`` counts all.
MAX_PRODUCTS: Final = 50
NOT_PUBLISHED: Final = -1


class SessionPart(msgspec.Struct, gc=False, array_like=True):
    """Changed in place by the batch that owns it, never once it is stored. Times are UTC epoch ms, revenue millionths."""

    #: Number of its cell: all its events lie in ``[cell * cell_ms, (cell + 1) * cell_ms)``.
    cell: int
    start_ms: int
    last_ms: int
    events: int
    counts: dict[NameCode, int]
    entry_ms: int
    entry_page: str | None
    exit_ms: int
    exit_page: str | None
    is_converted: bool
    orders: int
    revenue: int
    units: int
    products: dict[str, int]
    #: First cell and id of the session that it was published with, and the revision that comes next.
    base: int = NOT_PUBLISHED
    id_ms: int = NOT_PUBLISHED
    revision: int = 0
    #: It has something that was not published yet.
    is_changed: bool = True


def new_part(cell: int, event: SessionEvent) -> SessionPart:
    """A part of one event."""
    time_ms, page = event.time_ms, event.page
    part = SessionPart(cell, time_ms, time_ms, 1, {event.name: 1}, time_ms, page, time_ms, page, event.converts, 0, 0, 0, {})
    if event.order is not None:
        _add_order(part, event.order)
    return part


def copy_part(part: SessionPart) -> SessionPart:
    """A part that may be changed."""
    copied: SessionPart = part.__copy__()  # type: ignore[attr-defined] # msgspec's own; copy.copy() costs three times as much
    copied.counts = part.counts.copy()
    copied.products = part.products.copy()
    return copied


def count(part: SessionPart, event: SessionEvent) -> None:
    """Add one event. Per event, so comparisons and not calls."""
    time_ms, name, page, counts = event.time_ms, event.name, event.page, part.counts
    part.events += 1
    seen = counts.get(name, 0)
    counts[name] = seen + 1
    if not seen and len(counts) > MAX_CUSTOM_NAMES:
        _bound_names(counts)
    if time_ms > part.last_ms:
        part.last_ms = time_ms
    elif time_ms < part.start_ms:
        part.start_ms = time_ms
    if page is not None:
        _see_page(part, time_ms, page)
    if event.converts:
        part.is_converted = True
    if event.order is not None:
        _add_order(part, event.order)
    part.is_changed = True


def absorb(part: SessionPart, other: SessionPart) -> None:
    """Add all of ``other``, which is not changed. What was published of either is the caller's concern."""
    part.start_ms, part.last_ms = min(part.start_ms, other.start_ms), max(part.last_ms, other.last_ms)
    part.events += other.events
    for name, number in other.counts.items():
        part.counts[name] = part.counts.get(name, 0) + number
    _bound_names(part.counts)
    if other.entry_page is not None:
        _see_page(part, other.entry_ms, other.entry_page)
    if other.exit_page is not None:
        _see_page(part, other.exit_ms, other.exit_page)
    part.is_converted = part.is_converted or other.is_converted
    part.orders += other.orders
    part.revenue = saturate(part.revenue + other.revenue)
    part.units += other.units
    _add_products(part.products, other.products)
    part.is_changed = True


def _see_page(part: SessionPart, time_ms: int, page: str) -> None:
    entry, last = part.entry_page, part.exit_page
    if entry is None or time_ms < part.entry_ms or (time_ms == part.entry_ms and page < entry):
        part.entry_ms, part.entry_page = time_ms, page
    if last is None or time_ms > part.exit_ms or (time_ms == part.exit_ms and page > last):
        part.exit_ms, part.exit_page = time_ms, page


def _bound_names(counts: dict[NameCode, int]) -> None:
    custom = sorted(name for name in counts if isinstance(name, str))
    for name in custom[MAX_CUSTOM_NAMES:]:
        del counts[name]


def _add_order(part: SessionPart, order: Order) -> None:
    part.orders += 1
    part.revenue = saturate(part.revenue + order.revenue)
    part.units += sum(order.units.values())
    _add_products(part.products, order.units)


def _add_products(products: dict[str, int], units: dict[str, int]) -> None:
    for product, number in units.items():
        products[product] = products.get(product, 0) + number
    if len(products) > MAX_PRODUCTS:
        for product in sorted(products)[MAX_PRODUCTS:]:
            del products[product]

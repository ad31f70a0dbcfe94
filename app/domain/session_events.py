"""What sessions and windows want to know of an event: its name, its page, its order, its items.

Where sessions or windows are counted these fields come with the event (``details``). Else, and for an event in which one of
them has another type, they are read from the record's bytes a second time: a revenue of the wrong type is no reason to
refuse an event. What has no usable type counts as absent.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from app.domain.amounts import micros
from app.domain.clickstream import OTHER_CODE, TRACK, TRACK_CODES, TYPE_CODES
from app.domain.details import Context, DetailedEvent, DetailedProperties, Line, Page
from app.domain.events import Interaction

NameCode = int | str
OrderLine = Line | DetailedProperties
"""What an event says of one item; the item of the event itself is among its other properties"""

#: A longer custom name is counted with the others, a longer page is cut: both are kept in every session.
MAX_NAME_CHARS: Final = 64
MAX_PAGE_CHARS: Final = 256
MAX_CATEGORY_CHARS: Final = 64
#: More units of one order line are taken for a mistake: the line counts as one.
MAX_UNITS: Final = 1_000_000
ORDER_COMPLETED: Final = TRACK_CODES["Order Completed"]
CONVERSIONS: Final = frozenset[NameCode]({ORDER_COMPLETED})


class Order(msgspec.Struct, frozen=True, gc=False):
    """A completed order: revenue in millionths, units by product id."""

    revenue: int
    units: dict[str, int]


class SessionEvent(msgspec.Struct, frozen=True, gc=False):
    """One valid, unique event as sessions and windows count it. ``name`` is a code of ``clickstream`` or a custom name."""

    time_ms: int
    name: NameCode
    page: str | None = None
    converts: bool = False
    order: Order | None = None


class _Call(msgspec.Struct, frozen=True, gc=False):
    name: str | None = None
    context: Context | None = None
    properties: DetailedProperties | None = None


_NO_PROPERTIES: Final = DetailedProperties()
_decode: Final = msgspec.json.Decoder(_Call).decode
_decode_any: Final = msgspec.json.Decoder().decode


def session_event(interaction: Interaction, value: bytes, conversions: frozenset[NameCode] = CONVERSIONS) -> SessionEvent:
    """The session's view of an event.

    Args:
        value: the record's value, which ``interaction`` was decoded from.
        conversions: names that make a session a converted one.
    """
    event, name = interaction.event, name_of(interaction)
    call = event if isinstance(event, DetailedEvent) else _read(value)
    context, properties = call.context, call.properties or _NO_PROPERTIES
    page = context.page.path if context is not None and context.page is not None else None
    page = page or properties.path or (call.name if event.type != TRACK else None)
    order = _order(properties) if name == ORDER_COMPLETED else None
    return SessionEvent(interaction.time_ms, name, page[:MAX_PAGE_CHARS] if page else None, name in conversions, order)


def lines_of(interaction: Interaction, value: bytes) -> list[OrderLine]:
    """The items that an event names, each with what it says of them: its own one, then those of its list. ``value`` as above."""
    if not interaction.items:
        return []
    event = interaction.event
    properties = (event if isinstance(event, DetailedEvent) else _read(value)).properties or _NO_PROPERTIES
    lines: list[OrderLine] = [properties, *(properties.products or ())]
    return [line for line in lines if line.product_id is not None and line.product_id != ""]


def _read(value: bytes) -> _Call:
    """What a plain event leaves out."""
    try:
        return _decode(value)
    except msgspec.ValidationError:
        return _lenient(_decode_any(value))


def name_of(interaction: Interaction) -> NameCode:
    """The stored code of an event's name: of ``clickstream``, or the custom name itself unless it is too long."""
    event = interaction.event
    name = event.event
    if event.type != TRACK or name is None:
        return TYPE_CODES[event.type or ""]
    return TRACK_CODES.get(name) or (name if len(name) <= MAX_NAME_CHARS else OTHER_CODE)


def _order(properties: DetailedProperties) -> Order:
    revenue = micros(properties.revenue)
    if revenue is None:
        revenue = micros(properties.total) or 0
    units: dict[str, int] = {}
    for line in properties.products or ():
        if line.product_id is not None and line.product_id != "":
            key = str(line.product_id)
            units[key] = units.get(key, 0) + whole_units(line.quantity)
    return Order(revenue, units)


def whole_units(quantity: float | None) -> int:
    """How many units a line is of; one, when it says nothing that makes sense."""
    return int(quantity) if quantity is not None and 1 <= quantity <= MAX_UNITS else 1


def _lenient(call: Any) -> _Call:
    """The same fields, one by one, of a call in which at least one has the wrong type."""
    properties = _mapping(_mapping(call).get("properties"))
    page = _mapping(_mapping(_mapping(call).get("context")).get("page"))
    lines, own = properties.get("products"), _line(properties)
    return _Call(
        _text(_mapping(call).get("name")),
        Context(Page(_text(page.get("path")))),
        DetailedProperties(
            product_id=own.product_id,
            quantity=own.quantity,
            price=own.price,
            category=own.category,
            path=_text(properties.get("path")),
            revenue=_number_or_text(properties.get("revenue")),
            total=_number_or_text(properties.get("total")),
            products=tuple(_line(_mapping(line)) for line in lines) if isinstance(lines, list) else None,
        ),
    )


def _line(line: dict[str, Any]) -> Line:
    product_id, quantity = _number_or_text(line.get("product_id")), _number_or_text(line.get("quantity"))
    return Line(
        None if isinstance(product_id, float) else product_id,
        None if isinstance(quantity, str) else quantity,
        _number_or_text(line.get("price")),
        _text(line.get("category")),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number_or_text(value: Any) -> int | float | str | None:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else None

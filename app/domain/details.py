"""The event with what sessions and windows want to know of it, for who counts those: one parse instead of two.

Whatever has these types is an ``Event`` too, with the same values, so nothing is accepted here that is refused there. The
reverse does not hold (a revenue may be anything), hence who decodes falls back to the plain ``Event``.
"""

from __future__ import annotations

import msgspec

from app.domain.events import Event, Product, Properties


class Page(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """``context.page``."""

    path: str | None = None


class Context(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """``context``."""

    page: Page | None = None


class Line(Product, frozen=True, gc=False, omit_defaults=True):
    """One line of ``properties.products``."""

    quantity: int | float | None = None
    price: int | float | str | None = None
    category: str | None = None


class DetailedProperties(Properties, frozen=True, gc=False, omit_defaults=True):
    """``properties``: a line of its own, and all the others."""

    products: tuple[Line, ...] | None = None
    quantity: int | float | None = None
    price: int | float | str | None = None
    category: str | None = None
    path: str | None = None
    revenue: int | float | str | None = None
    total: int | float | str | None = None


class DetailedEvent(Event, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """A call."""

    name: str | None = None
    context: Context | None = None
    properties: DetailedProperties | None = None

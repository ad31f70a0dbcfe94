"""The source event: the Segment spec's calls, reduced to the fields that somebody here looks into.

Unknown fields are skipped, not kept: what is published is the original bytes (``enriched.py``).
Every field is optional at this level, so that a missing one gets its own named reason in ``validation.py``.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

#: A larger number has lost its meaning as an id in most JSON tools; the bound also keeps its text short.
NumericId = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Product(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One line of ``properties.products``."""

    product_id: str | NumericId | None = None


class Properties(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The items an event is about."""

    product_id: str | NumericId | None = None
    products: tuple[Product, ...] | None = None


class Event(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, rename="camel"):
    """One decoded call. Times are the sender's texts, unparsed: only one of them is needed per event."""

    type: str | None = None
    message_id: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    event: str | None = None
    timestamp: str | None = None
    original_timestamp: str | None = None
    sent_at: str | None = None
    received_at: str | None = None
    properties: Properties | None = None
    #: Ours on the output; a source event that already has it needs the slow path of ``enriched.py``.
    veltrix: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET

    @property
    def has_veltrix(self) -> bool:
        """The original already has a member named like the one we add."""
        return self.veltrix is not msgspec.UNSET


class Interaction(msgspec.Struct, frozen=True, gc=False):
    """A valid event with what validation derived from it; what the fold works on."""

    event: Event
    #: ``u:<userId>``, else ``a:<anonymousId>``: the key of all its state.
    user_key: str
    #: De-duplication id: 8 bytes that stand for ``messageId``.
    digest: bytes
    #: Event time, UTC epoch milliseconds.
    time_ms: int
    #: Product ids it names, in its own order.
    items: tuple[str, ...]


def product_ids(properties: Properties) -> tuple[str, ...]:
    """Ids of all products that an event names: its own, then those of its list; empty ones left out."""
    single, products = properties.product_id, properties.products
    own = () if single is None or single == "" else (str(single),)
    if not products:
        return own
    return own + tuple(str(p.product_id) for p in products if p.product_id is not None and p.product_id != "")

"""The shop behind the generated traffic: its items, its visitors, and how a visit walks the funnel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import msgspec

EventType = Literal["page", "identify", "track"]
Step = Literal["page", "identify", "list", "view", "add", "checkout", "order"]

#: From a step: the next ones with their probability; what is missing to 1 ends the visit.
#: About one visit in twelve ends in an order.
FUNNEL: Final[Mapping[Step, tuple[tuple[Step, float], ...]]] = {
    "page": (("list", 0.70), ("view", 0.12), ("identify", 0.04)),
    "identify": (("list", 0.90),),
    "list": (("view", 0.75), ("list", 0.10), ("page", 0.05)),
    "view": (("view", 0.35), ("list", 0.18), ("add", 0.20)),
    "add": (("view", 0.35), ("list", 0.10), ("checkout", 0.35)),
    "checkout": (("order", 0.65), ("page", 0.10)),
    "order": (),
}
CATEGORIES: Final = ("books", "garden", "kitchen", "music", "outdoor", "toys")
BRANDS: Final = ("Alder", "Birch", "Cedar", "Elm", "Hazel")
AGENTS: Final = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 Version/17.5 Mobile Safari/604.1",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/126.0.0.0 Safari/537.36",
)
LOCALES: Final = ("en-GB", "de-DE", "fr-FR", "pt-BR")
CURRENCY: Final = "EUR"
LIST_LENGTH: Final = 3


class Item(NamedTuple):
    """A product; everything about it follows from its popularity rank."""

    rank: int

    @property
    def product_id(self) -> str:
        return f"p{self.rank:06d}"

    @property
    def category(self) -> str:
        return CATEGORIES[self.rank % len(CATEGORIES)]

    @property
    def price(self) -> float:
        # 7919 is a prime: neighbours in rank get unrelated prices between 1.99 and 200.99
        return round(1.99 + self.rank * 7919 % 200, 2)

    def reference(self) -> dict[str, Any]:
        """As it stands in a cart or an order."""
        return {"product_id": self.product_id, "price": self.price, "quantity": 1}

    def details(self) -> dict[str, Any]:
        """As it stands on its own page."""
        brand = BRANDS[self.rank % len(BRANDS)]
        return {
            "product_id": self.product_id,
            "sku": f"{brand[:2].upper()}-{self.rank}",
            "name": f"{brand} no. {self.rank}",
            "brand": brand,
            "category": self.category,
            "price": self.price,
            "currency": CURRENCY,
        }


class Visitor(NamedTuple):
    """A person by activity rank; anonymous ones have no ``userId``."""

    rank: int
    anonymous: bool

    @property
    def anonymous_id(self) -> str:
        return f"anon-{self.rank:06d}"

    @property
    def user_id(self) -> str:
        return f"user-{self.rank:06d}"

    @property
    def key(self) -> bytes:
        """Key of the Kafka record: ``userId``, else ``anonymousId``."""
        return (self.anonymous_id if self.anonymous else self.user_id).encode()

    def ids(self) -> dict[str, str]:
        if self.anonymous:
            return {"anonymousId": self.anonymous_id}
        return {"userId": self.user_id, "anonymousId": self.anonymous_id}

    def traits(self) -> dict[str, Any]:
        return {"email": f"{self.user_id}@example.com", "plan": "plus" if self.rank % 7 == 0 else "basic"}


@dataclass(slots=True)
class Visit:
    """One session of a visitor: where it stands in the funnel and what is in its cart."""

    visitor: Visitor
    visit_id: str
    context: msgspec.Raw
    """encoded once: most of an event's bytes are the same through a visit"""
    step: Step | None = "page"
    item: Item | None = None
    cart: list[Item] = field(default_factory=list)

    @classmethod
    def begin(cls, visitor: Visitor, visit_id: str, uniform: Callable[[], float]) -> Visit:
        context = {
            "library": {"name": "analytics.js", "version": "2.11.1"},
            "userAgent": AGENTS[int(uniform() * len(AGENTS))],
            "locale": LOCALES[visitor.rank % len(LOCALES)],
            "session": visit_id,
        }
        return cls(visitor, visit_id, msgspec.Raw(msgspec.json.encode(context)))

    @property
    def ended(self) -> bool:
        return self.step is None

    def advance(self, uniform: Callable[[], float], pick: Callable[[], Item]) -> tuple[EventType, str, dict[str, Any]]:
        """The event of the present step as (type, name, properties or traits); then move on.

        Only for a visit that has not ended. ``uniform`` gives numbers in [0, 1), ``pick`` an item by popularity.
        """
        assert self.step is not None
        event = self._event(self.step, pick)
        self.step = self._next(self.step, uniform())
        return event

    def _next(self, step: Step, uniform: float) -> Step | None:
        for following, probability in FUNNEL[step]:
            uniform -= probability
            if uniform < 0:
                # somebody without a login cannot be identified
                return "list" if following == "identify" and self.visitor.anonymous else following
        return None

    def _event(self, step: Step, pick: Callable[[], Item]) -> tuple[EventType, str, dict[str, Any]]:
        match step:
            case "page":
                return "page", "Home", {"path": "/", "title": "Home", "url": "https://shop.example.com/"}
            case "identify":
                return "identify", "", self.visitor.traits()
            case "list":
                items = [pick() for _ in range(LIST_LENGTH)]
                found = [{"product_id": item.product_id, "price": item.price} for item in items]
                return "track", "Product List Viewed", {"category": items[0].category, "products": found}
            case "view":
                self.item = pick()
                return "track", "Product Viewed", self.item.details()
            case "add":
                item = self.item or pick()
                self.cart.append(item)
                return "track", "Product Added", {"cart_id": self.visit_id, **item.details(), "quantity": 1}
            case "checkout":
                return "track", "Checkout Started", self._cart("value")
            case "order":
                return "track", "Order Completed", self._cart("total")

    def _cart(self, amount: str) -> dict[str, Any]:
        total = round(sum(item.price for item in self.cart), 2)
        products = [item.reference() for item in self.cart]
        return {"order_id": f"o-{self.visit_id}", amount: total, "currency": CURRENCY, "products": products}

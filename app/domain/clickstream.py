"""Names of the Segment e-commerce spec, each with the small number that stands for it in stored profiles.

A number is part of the stored format: append new names at the end, never reorder or reuse.
"""

from __future__ import annotations

from typing import Final

TRACK: Final = "track"
EVENT_TYPES: Final = frozenset({TRACK, "page", "screen", "identify", "group", "alias"})

#: Code of every custom event name that a profile no longer lists on its own.
OTHER_CODE: Final = 0
OTHER_NAME: Final = "$other"

#: Calls that have no event name are counted as ``$<type>``: no track event of the spec starts with a dollar.
_TYPE_NAMES: Final = ("$page", "$screen", "$identify", "$group", "$alias")

_TRACK_NAMES: Final = (
    "Products Searched",
    "Product List Viewed",
    "Product List Filtered",
    "Promotion Viewed",
    "Promotion Clicked",
    "Product Clicked",
    "Product Viewed",
    "Product Added",
    "Product Removed",
    "Cart Viewed",
    "Checkout Started",
    "Checkout Step Viewed",
    "Checkout Step Completed",
    "Payment Info Entered",
    "Order Completed",
    "Order Updated",
    "Order Refunded",
    "Order Cancelled",
    "Coupon Entered",
    "Coupon Applied",
    "Coupon Denied",
    "Coupon Removed",
    "Product Added to Wishlist",
    "Product Removed from Wishlist",
    "Wishlist Product Added to Cart",
    "Product Shared",
    "Cart Shared",
    "Product Reviewed",
    "Signed Up",
    "Signed In",
    "Signed Out",
)

#: Stored code to public name.
NAMES: Final[dict[int, str]] = {OTHER_CODE: OTHER_NAME} | dict(enumerate(_TYPE_NAMES + _TRACK_NAMES, start=1))
#: Event type (all but track) to stored code.
TYPE_CODES: Final[dict[str, int]] = {name[1:]: code for code, name in enumerate(_TYPE_NAMES, start=1)}
#: Name of a well-known track event to stored code.
TRACK_CODES: Final[dict[str, int]] = {name: code for code, name in enumerate(_TRACK_NAMES, start=1 + len(_TYPE_NAMES))}

"""What those see of a value who may not see all of it: JSON without the fields at some paths, or nothing.

A path is dotted; ``*`` is any name; a list is looked through, whatever its length: ``properties.products.name`` is the name of
each product. So are ``properties.products.*.name`` and ``properties.products.0.name``: who names an element means all of them,
lest one is shown. What is no JSON object or list is not shown at all, since nothing says what it holds.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import orjson

from app.dead_letters.headers import MANAGED
from app.sidecar.dead_letter_views import BytesView, PageView, RecordSummary, RecordView

EVERYTHING: Final = "*"
KEY: Final = "$key"
MASK: Final = "***"


class Masks:
    """Args: paths: comma-separated; ``*`` alone hides values as a whole, ``$key`` the records' keys."""

    def __init__(self, paths: str) -> None:
        named = {path.strip() for path in paths.split(",") if path.strip()}
        self._hides_values = EVERYTHING in named
        self.hides_keys = KEY in named
        self._paths = [tuple(path.split(".")) for path in sorted(named - {KEY, EVERYTHING})]

    def record(self, view: RecordView) -> RecordView:
        """``view`` as it may be seen. Sizes and our own headers stay; other headers are the sender's, and go."""
        headers = [(name, *(values if name in MANAGED else (None, None))) for name, *values in view.headers]
        hidden: dict[str, Any] = {"value": self._value(view.value), "headers": headers}
        if self.hides_keys:
            hidden |= {"key": None, "key_bytes": None}
        return view.model_copy(update=hidden)

    def page(self, page: PageView) -> PageView:
        """The same for a list, which has no values."""
        return page.model_copy(update={"records": [self._summary(record) for record in page.records]}) if self.hides_keys else page

    def _summary(self, record: RecordSummary) -> RecordSummary:
        return record.model_copy(update={"key": None})

    def _value(self, value: BytesView | None) -> BytesView | None:
        if value is None or self._hides_values or not isinstance(value.parsed, (dict, list)):
            return None
        seen = value.parsed
        for path in self._paths:
            seen = masked(seen, path)
        raw = orjson.dumps(seen)
        return BytesView(size=value.size, base64=b64encode(raw).decode(), text=raw.decode(), parsed=seen)


def masked(value: Any, path: tuple[str, ...]) -> Any:
    """A copy of parsed JSON in which whatever ``path`` leads to is masked."""
    if isinstance(value, list):
        seen = [masked(one, path) for one in value]
        return [masked(one, path[1:]) for one in seen] if path and (path[0] == "*" or path[0].isdecimal()) else seen
    if not path:
        return MASK
    if not isinstance(value, dict):
        return value
    first, rest = path[0], path[1:]
    return {name: masked(held, rest) if first in (name, "*") else held for name, held in value.items()}

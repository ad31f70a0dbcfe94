"""How many events of each name there were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from app.domain.clickstream import NAMES, OTHER_CODE
from app.domain.session_events import NameCode

VERSION: Final = 1
#: Custom names that are counted on their own; all further ones together, so that the value stays small.
MAX_CUSTOM_NAMES: Final = 200


class EventTotals(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Counts by stored name; the mapping is never changed after construction."""

    version: int = VERSION
    counts: dict[NameCode, int] = {}

    def plus(self, names: Iterable[NameCode]) -> EventTotals:
        """These, and one more event of each of ``names``."""
        counts = self.counts.copy()
        for name in names:
            seen = counts.get(name)
            if seen is None and isinstance(name, str) and sum(isinstance(known, str) for known in counts) >= MAX_CUSTOM_NAMES:
                name, seen = OTHER_CODE, counts.get(OTHER_CODE)  # noqa: PLW2901
            counts[name] = 1 if seen is None else seen + 1
        return EventTotals(VERSION, counts)


def totals_to_json(totals: EventTotals) -> dict[str, int]:
    """Counts by public name."""
    public: dict[str, int] = {}
    for code, count in totals.counts.items():
        name = code if isinstance(code, str) else NAMES.get(code, f"${code}")
        public[name] = public.get(name, 0) + count
    return public

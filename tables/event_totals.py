"""Unique valid events by name, of one partition, since its first record. One value, key ``all``."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from app.domain.totals import EventTotals
from app.engine.api import View, struct_view

event_totals: Final[View[EventTotals]] = replace(
    struct_view("event_totals", b"t", EventTotals, lookup="totals"), lookup_keys="partition"
)
#: The one key.
ALL: Final = "all"

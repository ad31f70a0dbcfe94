"""The clock of each source partition: one value, under the empty key."""

from __future__ import annotations

from typing import Final

from app.domain.source_clock import SourceClockState
from app.engine.api import View, struct_view

source_clocks: Final[View[SourceClockState]] = struct_view("source_clocks", b"c", SourceClockState)
#: The one key.
CLOCK: Final = ""

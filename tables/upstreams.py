"""What ``aggregate_items`` has applied of each upstream partition. One value, key ``all``; 20 bytes an upstream partition."""

from __future__ import annotations

from typing import Final

from app.domain.upstreams import UpstreamsState
from app.engine.api import View, struct_view

upstreams: Final[View[UpstreamsState]] = struct_view("upstreams", b"u", UpstreamsState)
#: The one key.
ALL: Final = "all"

"""Closed chunks of remembered message ids, 16 a value, never changed once written.

Key: ``<user key>/<chunk number>``. Bounded per user by the de-duplication settings; 140 bytes a chunk.
"""

from __future__ import annotations

from typing import Final

from app.domain.dedupe import Chunk
from app.engine.api import View, struct_view

seen_ids: Final[View[Chunk]] = struct_view("seen_ids", b"s", Chunk)

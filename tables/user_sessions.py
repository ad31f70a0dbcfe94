"""Open sessions per user, and closed ones while they may be corrected. Key as in ``user_profiles``; 150 to 400 bytes.

A user without either has no value. Bounded by who was active within the gap and the allowed lateness.
"""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import Final

from app.domain.sessions import UserSessions, decode_sessions
from app.engine.api import View, struct_view

user_sessions: Final[View[UserSessions]] = replace(
    struct_view("user_sessions", b"v", UserSessions, lookup="sessions"), decode=decode_sessions, due_ms=attrgetter("due_ms")
)

"""One profile per user: the value that lookups serve and that gives events their sequence number.

Kept without a bound in time. Key: ``u:<userId>`` or ``a:<anonymousId>``; about 200 bytes a user.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from app.domain.profiles import UserProfile, decode_profile
from app.engine.api import View, struct_view

#: The Struct's own decoder would read a newer format as far as it fits; ours refuses.
user_profiles: Final[View[UserProfile]] = replace(
    struct_view("user_profiles", b"p", UserProfile, lookup="users"), decode=decode_profile
)

"""Roles of those who work on dead letters, and the file that gives them by token.

A token is 32 random bytes, so its SHA-256 is as good as a slow hash and costs nothing. One line a token:
``<name> <role>[,<role>] <sha256 of the token in hex>``.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, cast, get_args

Role = Literal["viewer", "payload-reader", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
#: What a role may beside its own: values are customers' data, so sending a letter again does not mean reading it.
IMPLIED: Final[Mapping[Role, frozenset[Role]]] = {
    "viewer": frozenset({"viewer"}),
    "payload-reader": frozenset({"viewer", "payload-reader"}),
    "operator": frozenset({"viewer", "operator"}),
    "admin": frozenset(ROLES),
}


#: Longer names of callers are cut: they go into the audit.
MAX_NAME: Final = 200


class BadTokensFile(Exception):
    """A line of the tokens file is wrong; the message says which and how it must be."""


class Caller(NamedTuple):
    """Who asks."""

    name: str
    roles: frozenset[Role]

    def may(self, role: Role) -> bool:
        """Whether this role is among theirs."""
        return role in self.roles


def parse_tokens(text: str, where: str) -> dict[bytes, Caller]:
    """SHA-256 in hex to who it is.

    Raises:
        BadTokensFile: a line is wrong, or there is none.
    """
    found: dict[bytes, Caller] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) != 3 or len(parts[2]) != 64 or set(parts[2]) - set("0123456789abcdef"):
            raise BadTokensFile(f"{where}, line {number}: <name> <role>[,<role>] <sha256 of the token, 64 hex digits>")
        roles = parts[1].split(",")
        if unknown := sorted(set(roles) - set(ROLES)):
            raise BadTokensFile(f"{where}, line {number}: {', '.join(unknown)} is none of {', '.join(ROLES)}")
        found[parts[2].encode()] = Caller(parts[0], frozenset[Role]().union(*(IMPLIED[cast("Role", role)] for role in roles)))
    if not found:
        raise BadTokensFile(f"{where} has no token")
    return found


def digest_of(token: str) -> bytes:
    """As the file has it."""
    return hashlib.sha256(token.encode()).hexdigest().encode()


def new_token(name: str, role: str) -> tuple[str, str]:
    """A token, and its line for the file.

    Raises:
        BadTokensFile: no such role, or a name with a space.
    """
    token = secrets.token_urlsafe(32)
    line = f"{name} {role} {digest_of(token).decode()}"
    parse_tokens(line, "a token")
    return token, line

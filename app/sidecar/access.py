"""Who asks, and whether they may: bearer tokens of a file, which is read again when it changes.

Without a file everybody who reaches the process may do everything: only on loopback.
"""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, cast

import structlog
from fastapi import Depends, Request

from app.dead_letters.roles import IMPLIED, BadTokensFile, Caller, Role, digest_of, parse_tokens
from app.sidecar.problems import Problem

log = structlog.get_logger(__name__)

USER_HEADER: Final = "x-veltrix-user"
MAX_NAME: Final = 200


class Access(Protocol):
    """Who a request is from."""

    def caller(self, request: Request) -> Caller:
        """Raises Problem 401."""
        ...


class Everybody:
    """On loopback, without log-ins: who asks says who it is."""

    def caller(self, request: Request) -> Caller:
        """See :class:`Access`."""
        return Caller(request.headers.get(USER_HEADER, "operator")[:MAX_NAME] or "operator", IMPLIED["admin"])


class TokenFile:
    """Bearer tokens.

    Raises:
        BadTokensFile: when made; a file that becomes wrong later is logged, and what was known stays in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes, Caller] = {}
        self._stamp = 0.0
        self._read()

    def caller(self, request: Request) -> Caller:
        """See :class:`Access`."""
        self._read_again()
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        digest = digest_of(token.strip())
        found = None
        for known, caller in self._known.items():  # all of them: the time says nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if scheme.lower() != "bearer" or found is None:
            raise Problem(
                401,
                "unauthorized",
                "A bearer token is needed; `veltrix dlq token` makes one.",
                headers={"www-authenticate": "Bearer"},
            )
        return found

    def _read_again(self) -> None:
        try:
            if self._path.stat().st_mtime != self._stamp:
                self._read()
        except (OSError, BadTokensFile) as exc:
            log.error("tokens_file_not_read", reason=str(exc))

    def _read(self) -> None:
        try:
            stamp, text = self._path.stat().st_mtime, self._path.read_text(encoding="utf-8")
        except OSError as exc:
            raise BadTokensFile(f"{self._path} cannot be read: {exc.strerror}") from exc
        self._known = parse_tokens(text, str(self._path))
        self._stamp = stamp


def identified(access: Access) -> Any:
    """A dependency of a whole router: who asks, who may look at least."""

    def identify(request: Request) -> None:
        request.state.caller = caller = access.caller(request)
        require(caller, "viewer")

    return Depends(identify)


def _caller_of(request: Request) -> Caller:
    return cast("Caller", request.state.caller)


Asker = Annotated[Caller, Depends(_caller_of)]
"""Parameter of a route: who asks"""


def _role(role: Role) -> Any:
    def check(caller: Asker) -> None:
        require(caller, role)

    return Depends(check)


#: Dependencies of single routes, behind :func:`identified`.
PAYLOAD_READER, OPERATOR, ADMIN = _role("payload-reader"), _role("operator"), _role("admin")


def require(caller: Caller, role: Role) -> None:
    """Raises Problem 403."""
    if not caller.may(role):
        raise Problem(403, "forbidden", f"{caller.name} has not the role {role}.", {"needed": role})

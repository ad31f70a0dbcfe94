"""Who asks, and whether they may: bearer tokens, of a file (read again when it changes) or of an identity provider.

Without either everybody who reaches the process may do everything: only on loopback.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, cast

import structlog
from fastapi import Depends, Request

from app.dead_letters.roles import IMPLIED, MAX_NAME, BadTokensFile, Caller, Role, digest_of, parse_tokens
from app.sidecar.problems import Problem
from app.sidecar.rates import Rates

log = structlog.get_logger(__name__)

USER_HEADER: Final = "x-veltrix-user"


class Access(Protocol):
    """Who a request is from."""

    async def caller(self, request: Request) -> Caller:
        """Raises Problem 401, or 429."""
        ...


class Everybody:
    """On loopback, without log-ins: who asks says who it is."""

    async def caller(self, request: Request) -> Caller:
        """See :class:`Access`."""
        return Caller(request.headers.get(USER_HEADER, "operator")[:MAX_NAME] or "operator", IMPLIED["admin"])


class Strangers:
    """Beyond loopback, without log-ins: whoever asks sees lists and headers, and nothing that customers sent."""

    async def caller(self, request: Request) -> Caller:
        """See :class:`Access`."""
        return Caller("stranger", IMPLIED["viewer"])


class Bearers(Protocol):
    """Who knows tokens."""

    async def find(self, token: str) -> Caller | None:
        """Whose it is; None: nobody's."""
        ...


class LogIn:
    """Everybody needs a token that one of ``known`` knows, and may ask so often.

    Who has none is told apart by address.
    """

    def __init__(self, known: Sequence[Bearers], rates: Rates) -> None:
        self._known, self._rates = known, rates

    async def caller(self, request: Request) -> Caller:
        """See :class:`Access`."""
        found = await self._find(request.headers.get("authorization", ""))
        address = request.client.host if request.client else ""
        wait_s = self._rates.take(f"by name {found.name}" if found else f"from {address}")
        if wait_s:
            detail = "More requests than one caller may make (VELTRIX_ADMIN_REQUESTS_PER_S)."
            raise Problem(429, "too-many-requests", detail, headers={"retry-after": str(math.ceil(wait_s))})
        if found is None:
            detail = "A bearer token is needed: of your identity provider, or one that `veltrix dlq token` makes."
            raise Problem(401, "unauthorized", detail, headers={"www-authenticate": "Bearer"})
        return found

    async def _find(self, authorization: str) -> Caller | None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        for bearers in self._known:
            found = await bearers.find(token.strip())
            if found is not None:
                return found
        return None


class TokenFile:
    """Bearer tokens of a file.

    Raises:
        BadTokensFile: when made; a file that becomes wrong later is logged, and what was known stays in force.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[bytes, Caller] = {}
        self._stamp = 0.0
        self._read()

    async def find(self, token: str) -> Caller | None:
        """See :class:`Bearers`."""
        self._read_again()
        digest, found = digest_of(token), None
        for known, caller in self._known.items():  # all of them: the time says nothing
            if hmac.compare_digest(known, digest):
                found = caller
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

    async def identify(request: Request) -> None:
        request.state.caller = caller = await access.caller(request)
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

"""Log-ins of an identity provider: bearer tokens that are JSON Web Tokens (RFC 7519), checked as RFC 8725 advises.

The provider is asked for its public keys alone, never about a token: a request is answered while it is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx
import jwt
import structlog

from app.dead_letters.roles import IMPLIED, MAX_NAME, ROLES, Caller, Role
from app.sidecar.problems import Problem

log = structlog.get_logger(__name__)

#: Public keys only: with a shared secret whoever can check a token could make one.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
REQUIRED: Final = ("exp", "iss", "aud", "sub")
#: Clocks of two hosts.
LEEWAY_S: Final = 30
#: Keys are asked for again after this time, and when a token names an unknown one, but not more often than RETRY_S.
KEEP_S: Final = 600.0
RETRY_S: Final = 30.0
TIMEOUT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 1024 * 1024

Fetch = Callable[[str], Any]
"""URL to parsed JSON, awaitable"""


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose tokens are taken. ``jwks_url`` empty: the issuer's discovery document names it."""

    issuer: str
    audience: str
    jwks_url: str = ""
    roles_claim: str = "roles"
    """dotted: ``realm_access.roles``"""


class NoKeys(Exception):
    """The provider's keys cannot be read; the message says why."""


async def fetch_json(url: str) -> Any:
    """GET ``url``.

    Raises:
        NoKeys: no answer, or one that is no JSON.
    """
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            answer = await client.get(url)
            answer.raise_for_status()
        if len(answer.content) > MAX_ANSWER_BYTES:
            raise NoKeys(f"{url} answers with {len(answer.content)} bytes")
        return answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise NoKeys(f"{url}: {type(exc).__name__}: {exc}") from exc


class Keys:
    """The provider's public keys, by id."""

    def __init__(self, provider: Provider, fetch: Fetch = fetch_json, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider, self._fetch, self._clock = provider, fetch, clock
        self._known: dict[str, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def of(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id; None: the provider has none.

        Raises:
            NoKeys: it cannot be asked, and never could.
        """
        if self._is_wanted(key_id):
            async with self._fetching:
                if self._is_wanted(key_id):  # whoever waited here may have been served meanwhile
                    await self._update()
        return self._known.get(key_id)

    def _is_wanted(self, key_id: str) -> bool:
        now = self._clock()
        is_missing = key_id not in self._known or now - self._fetched_at > KEEP_S
        return is_missing and (now - self._tried_at > RETRY_S or not self._known)

    async def _update(self) -> None:
        self._tried_at = self._clock()
        try:
            found = await self._fetch(await self._url())
            self._known = {key.key_id: key for key in jwt.PyJWKSet.from_dict(found).keys if key.key_id is not None}
        except (NoKeys, jwt.PyJWTError, AttributeError, TypeError) as exc:
            log.warning("identity_provider_gives_no_keys", issuer=self._provider.issuer, reason=str(exc))
            if not self._known:
                raise NoKeys(str(exc)) from exc
        else:
            self._fetched_at = self._tried_at

    async def _url(self) -> str:
        if self._provider.jwks_url:
            return self._provider.jwks_url
        document = await self._fetch(self._provider.issuer.rstrip("/") + "/.well-known/openid-configuration")
        if not isinstance(document, dict) or document.get("issuer") != self._provider.issuer:
            raise NoKeys(f"the discovery document is not that of {self._provider.issuer}")
        url = str(document.get("jwks_uri"))
        if self._provider.issuer.startswith("https:") and not url.startswith("https:"):
            raise NoKeys(f"{url} can be changed on its way: keys are taken over HTTPS alone")
        return url


class IdentityProvider:
    """Says whose a token is."""

    def __init__(self, provider: Provider, keys: Keys | None = None) -> None:
        self._provider = provider
        self._keys = keys or Keys(provider)

    async def find(self, token: str) -> Caller | None:
        """Whose it is; None: it is no token of this provider for us, or not any more.

        Raises:
            Problem: 503, the provider's keys cannot be read.
        """
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            key = await self._keys.of(key_id) if isinstance(key_id, str) else None
            return None if key is None else self._caller(self._claims(token, key))
        except jwt.PyJWTError as exc:
            log.info("token_refused", reason=f"{type(exc).__name__}: {exc}")
            return None
        except NoKeys as exc:
            detail = f"The identity provider {self._provider.issuer} does not answer, so nobody can log in with its tokens."
            raise Problem(503, "identity-provider-unavailable", detail, headers={"retry-after": str(int(RETRY_S))}) from exc

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=ALGORITHMS,
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=LEEWAY_S,
            options={"require": list(REQUIRED)},
        )

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        """The subject is what cannot be changed; the other name is for people who read the audit."""
        subject, name = str(claims["sub"]), claims.get("preferred_username") or claims.get("email")
        known = [IMPLIED[role] for role in roles_in(claims, self._provider.roles_claim)]
        return Caller((f"{name} ({subject})" if name else subject)[:MAX_NAME], frozenset[Role]().union(*known))


def roles_in(claims: Mapping[str, Any], path: str) -> list[Role]:
    """Our roles among those that the claim at the dotted ``path`` lists; it may be a list, or words in one text."""
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    listed = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    return [cast("Role", role) for role in listed if role in ROLES]

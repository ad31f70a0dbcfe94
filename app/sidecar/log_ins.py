"""Which log-in a process asks for, by its settings."""

from __future__ import annotations

from app.dead_letters.roles import BadTokensFile
from app.settings import LOOPBACK, Settings
from app.sidecar.access import Access, Bearers, Everybody, LogIn, Strangers, TokenFile
from app.sidecar.oidc import IdentityProvider, Provider
from app.sidecar.rates import Rates


def admin_access(settings: Settings) -> Access:
    """Of ``veltrix admin``: tokens of a file, of an identity provider, or of both; else everybody, on loopback.

    Raises:
        BadTokensFile: the file is wrong, or nobody needs to log in although others than this host can ask.
    """
    log_in = _log_in(settings)
    if log_in is None and settings.sidecar_host not in LOOPBACK:
        raise BadTokensFile(
            f"`veltrix admin` listens on {settings.sidecar_host}, beyond loopback, and nobody needs to log in: make a token with "
            "`veltrix dlq token`, put its line into a file, and name that in VELTRIX_ADMIN_TOKENS_FILE; or name your identity "
            "provider in VELTRIX_ADMIN_OIDC_ISSUER"
        )
    return log_in or Everybody()


def worker_access(settings: Settings) -> Access:
    """To the dead letters that a worker shows: as to ``veltrix admin``, but strangers may see what holds no customer's data.

    Raises:
        BadTokensFile: the file is wrong.
    """
    return _log_in(settings) or (Everybody() if settings.sidecar_host in LOOPBACK else Strangers())


def _log_in(settings: Settings) -> LogIn | None:
    known: list[Bearers] = []
    if settings.admin_tokens_file is not None:
        known.append(TokenFile(settings.admin_tokens_file))
    if settings.admin_oidc_issuer:
        known.append(IdentityProvider(_provider(settings)))
    return LogIn(known, Rates(settings.admin_requests_per_s)) if known else None


def _provider(settings: Settings) -> Provider:
    return Provider(
        settings.admin_oidc_issuer, settings.admin_oidc_audience, settings.admin_oidc_jwks_url, settings.admin_oidc_roles_claim
    )

"""One way to reach Redis: URL, ACL login, TLS, explicit timeouts, a name that CLIENT LIST shows."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError

from app.settings import Settings


def redis_client(settings: Settings, role: str, timeout_s: float, connections: int) -> Redis:
    """A client with its own pool; it connects at the first command. Retries are the caller's business.

    Args:
        role: what uses it, for the client name.
        timeout_s: to connect, and for one answer.
        connections: at most that many.

    Raises:
        ValueError: ``redis_url`` is not a Redis URL.
    """
    options: dict[str, Any] = {
        "client_name": f"{settings.app_id}-{role}",
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "max_connections": connections,
        "retry": Retry(NoBackoff(), 0),
    }
    if settings.redis_username:
        options["username"] = settings.redis_username
    if password := settings.redis_password.get_secret_value():
        options["password"] = password
    if settings.redis_url.startswith("rediss://") and settings.redis_ssl_ca_file is not None:
        options["ssl_ca_certs"] = str(settings.redis_ssl_ca_file)
    return Redis.from_url(settings.redis_url, **options)


def advice(exc: Exception) -> str:
    """What Redis said, and what to check."""
    if isinstance(exc, NoPermissionError):
        return f"{exc}; give its ACL user the rights that docs/runbooks/redis.md lists"
    if isinstance(exc, AuthenticationError):
        return f"{exc}; check VELTRIX_REDIS_USERNAME and VELTRIX_REDIS_PASSWORD"
    return f"{str(exc) or type(exc).__name__}; start Redis or check VELTRIX_REDIS_URL"

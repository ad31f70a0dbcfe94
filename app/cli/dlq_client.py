"""Asking ``veltrix admin`` from the command line: its answers as JSON, its problems as one sentence."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from app.cli.console import CommandError
from app.settings import LOOPBACK, Settings

TIMEOUT_S = 30.0
#: A stream says every ten seconds that it is there.
SILENT_S = 30.0


class AdminClient:
    """One connection. ``base``: its address up to the port."""

    def __init__(self, base: str, token: str = "") -> None:
        self.base = base
        headers = {"authorization": f"Bearer {token}"} if token else {"x-veltrix-user": _user()}
        self._http = httpx.Client(base_url=f"{base}/api/v1/dlq", timeout=TIMEOUT_S, headers=headers)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The answer to a GET; parameters that are None are left out."""
        return self._ask("GET", path, params={name: value for name, value in query.items() if value is not None})

    def behind(self) -> str | None:
        """Why the index does not show everything; None: it does."""
        try:
            answer = self._http.get(f"{self.base}/readyz")
            return None if answer.is_success else str(answer.json().get("detail"))
        except (httpx.HTTPError, ValueError):  # the question itself will say it better
            return None

    def pages(self, limit: int, **query: Any) -> Iterator[dict[str, Any]]:
        """Up to ``limit`` records, page by page."""
        cursor: str | None = None
        while limit > 0:
            page = self.get("/records", limit=min(limit, 500), cursor=cursor, **query)
            yield from page["records"]
            limit -= len(page["records"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def watch(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Records as they come, until the caller has enough; a CommandError when `veltrix admin` stops before that."""
        params = {name: value for name, value in query.items() if value is not None}
        with self._said(), self._http.stream("GET", "/records/stream", params=params, timeout=SILENT_S) as answer:
            if not answer.is_success:
                answer.read()
                raise _refusal(answer)
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))
        raise CommandError(f"`veltrix admin` at {self.base} was stopped: what came since is shown by `veltrix dlq ls`")

    def export(self, limit: int, **query: Any) -> Iterator[str]:
        """Up to ``limit`` whole letters as lines of JSON."""
        cursor: str | None = None
        while limit > 0:
            params = {name: value for name, value in query.items() if value is not None}
            params |= {"limit": min(limit, 500)} | ({"cursor": cursor} if cursor is not None else {})
            answer = self._answer("GET", "/export", params=params)
            lines = answer.text.splitlines()
            yield from lines
            limit -= len(lines)
            cursor = answer.headers.get("x-next-cursor")
            if cursor is None:
                return

    def post(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> Any:
        """The answer to a POST."""
        return self._ask("POST", path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    def patch(self, path: str, body: dict[str, Any], **query: Any) -> Any:
        """The answer to a PATCH."""
        return self._ask("PATCH", path, json=body, params={name: value for name, value in query.items() if value is not None})

    def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        return self._answer(method, path, **arguments).json()

    def _answer(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._said():
            answer = self._http.request(method, path, **arguments)
        if not answer.is_success:
            raise _refusal(answer)
        return answer

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as exc:
            raise CommandError(
                f"nobody answers at {self.base} ({type(exc).__name__}): start `veltrix admin`, or say where it is in VELTRIX_ADMIN_URL"
            ) from exc


def _refusal(answer: httpx.Response) -> CommandError:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    return CommandError(f"{detail} ({answer.status_code})")


@contextmanager
def admin_client(settings: Settings) -> Iterator[AdminClient]:
    """Where the settings say that it is."""
    host = settings.sidecar_host if settings.sidecar_host in LOOPBACK else "127.0.0.1"
    base = settings.admin_url or f"http://{f'[{host}]' if ':' in host else host}:{settings.admin_port}"
    client = AdminClient(base.rstrip("/"), settings.admin_token.get_secret_value())
    try:
        yield client
    finally:
        client.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"

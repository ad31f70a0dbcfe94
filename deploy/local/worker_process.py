"""One Veltrix worker as a child process, exactly as a user starts it: ``faust -A app.main worker``."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from deploy.local.ports import LOOPBACK, free_ports, require_free
from deploy.local.process import Command, ManagedProcess, ProcessError

ROOT = Path(__file__).resolve().parents[2]
ENV_PREFIX = "VELTRIX_"
STOP_TIMEOUT_S = 40.0  # the worker drains up to 20 s by itself (drain_timeout_ms)
HTTP_TIMEOUT_S = 2.0


class WorkerProcess:
    """A worker with its own sidecar port, data directory and log under ``run_dir``.

    Args:
        run_dir: holds ``data/`` and ``worker.log``; a second worker on it finds the first one's state.
        env: ``VELTRIX_*`` variables; those of our own environment are not passed on.
        name: for messages.
        port: of the sidecar; 0: any free one.
    """

    def __init__(self, run_dir: Path, env: Mapping[str, str], name: str = "worker", port: int = 0) -> None:
        self.run_dir = run_dir.resolve()
        self.name = name
        self.port = port or free_ports(1)[0]
        own = {"VELTRIX_SIDECAR_PORT": str(self.port), "VELTRIX_DATA_DIR": str(self.run_dir / "data")}
        argv = [*_faust(), "-A", "app.main", "worker", "-l", "info"]
        command = Command(name, argv, self.run_dir / "worker.log", cwd=ROOT, env=clean_environment() | own | dict(env))
        self._process = ManagedProcess(command)

    @property
    def log(self) -> Path:
        return self._process.command.log

    @property
    def url(self) -> str:
        """Address of the sidecar."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        """Start and return at once; ``wait_ready`` waits.

        Raises:
            PortTakenError: another process listens on the sidecar's port.
        """
        require_free(self.port)
        self._process.start()

    def wait_ready(self, timeout_s: float = 60.0, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Wait until /readyz answers 200: partitions assigned and restored; or until ``is_cancelled``.

        Raises:
            ProcessError: the worker ended or was not ready in time (then it is killed); holds the end of its log.
        """
        self._process.wait_until(lambda: is_cancelled() or self.is_ready(), timeout_s)

    def is_ready(self) -> bool:
        try:
            return self.get("/readyz")[0] == http.HTTPStatus.OK
        except OSError:
            return False

    def is_running(self) -> bool:
        return self._process.is_running()

    def exit_status(self) -> int | None:
        """None while it runs."""
        return self._process.exit_status()

    def wait(self, timeout_s: float) -> int | None:
        """Exit status once it ended by itself, None if it still runs after ``timeout_s``."""
        return self._process.wait(timeout_s)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET to the sidecar.

        Raises:
            OSError: nobody answers (also when the answer breaks off).
        """
        return http_get(self.port, path)

    def post(self, path: str, body: object) -> tuple[int, bytes]:
        """Status and body of a POST of JSON to the sidecar.

        Raises:
            OSError: nobody answers.
        """
        return http_request(self.port, "POST", path, json.dumps(body).encode())

    def terminate(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM and wait: the clean stop. Exit status.

        Raises:
            ProcessError: it did not end in time (then it is killed).
        """
        self._process.signal(signal.SIGTERM)
        status = self._process.wait(timeout_s)
        if status is None:
            self._process.kill()
            raise ProcessError(self.name, f"did not stop within {timeout_s:g} s of SIGTERM", self.log)
        return status

    def kill9(self) -> None:
        """SIGKILL, as the out-of-memory killer would."""
        self._process.kill()


def http_get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of ``GET http://127.0.0.1:port/path``; OSError when nobody answers properly."""
    return http_request(port, "GET", path)


def http_request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a request to ``http://127.0.0.1:port/path``; OSError when nobody answers properly."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(f"{method} {path} on port {port}: {exc!r}") from exc
    finally:
        connection.close()


def clean_environment() -> dict[str, str]:
    """Our environment without its ``VELTRIX_*`` variables: a child's settings are those that it is given."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _faust() -> list[str]:
    script = Path(sys.executable).with_name("faust")
    return [str(script)] if script.exists() else [sys.executable, "-m", "faust"]

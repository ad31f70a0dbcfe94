"""A Redis server on the loopback interface for demo, tests and benchmarks."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.ports import LOOPBACK, free_ports, require_free
from deploy.local.process import Command, ManagedProcess

START_TIMEOUT_S = 15.0


class RedisNotInstalledError(Exception):
    """There is no redis-server on PATH: run ``make setup``."""

    def __init__(self) -> None:
        super().__init__("redis-server is not on PATH: run `make setup`, or install the package redis-server")


class LocalRedis:
    """One redis-server. Without ``persistent`` a restart begins empty: what Redis holds is always rebuilt from Kafka.

    ``extra``: further arguments of redis-server.
    """

    def __init__(self, data_dir: Path, port: int = 0, persistent: bool = False, extra: Sequence[str] = ()) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port or free_ports(1)[0]
        self._persistent, self._extra = persistent, extra
        self._process = ManagedProcess(Command("Redis", self._argv(), self.data_dir / "redis.log"))

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> Path:
        return self._process.command.log

    def is_running(self) -> bool:
        return self._process.is_running()

    def start(self) -> None:
        """Start and wait until it answers PING.

        Raises:
            RedisNotInstalledError: no redis-server on PATH.
            PortTakenError: another process listens on its port.
            ProcessError: it did not come up; holds the end of its log.
        """
        if shutil.which("redis-server") is None:
            raise RedisNotInstalledError
        require_free(self.port)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._process.start()
        self._process.wait_until(self._answers, START_TIMEOUT_S)

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def restart(self) -> None:
        """Stop, then start on the same port."""
        self.stop()
        self.start()

    def flush(self) -> None:
        """Forget every key.

        Raises:
            OSError: Redis does not answer, or not with OK.
        """
        if (answer := self._ask(b"FLUSHALL SYNC")) != b"+OK\r\n":
            raise ConnectionError(f"FLUSHALL on {self.url}: {answer!r}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _argv(self) -> list[str]:
        durability = ["--appendonly", "yes" if self._persistent else "no", "--save", ""]
        listening = ["--bind", LOOPBACK, "--port", str(self.port), "--protected-mode", "yes"]
        return [
            "redis-server",
            *listening,
            *durability,
            *self._extra,
            "--dir",
            str(self.data_dir),
            "--daemonize",
            "no",
            "--loglevel",
            "notice",
        ]

    def _answers(self) -> bool:
        try:
            return self._ask(b"PING") == b"+PONG\r\n"
        except OSError:
            return False

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection((LOOPBACK, self.port), 5) as connection:
            connection.sendall(command + b"\r\n")
            return connection.recv(64)

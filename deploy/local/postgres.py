"""A PostgreSQL server on the loopback interface for tests: its own data directory, durability off."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.ports import LOOPBACK, free_ports, require_free
from deploy.local.process import Command, ManagedProcess, own

START_TIMEOUT_S = 30.0
INITDB_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
#: Debian keeps its servers there, off PATH.
DEBIAN_HOME = Path("/usr/lib/postgresql")
SUPERUSER = "veltrix"
#: A socket's path is at most 107 bytes long; ``/.s.PGSQL.<port>`` is 15 of them.
MAX_SOCKET_DIR_BYTES = 92
#: Line of postmaster.pid in which the server says how far it is: ``pg_ctl`` waits for it, too.
STATUS_LINE = 7


class PostgresNotInstalledError(Exception):
    """There is no PostgreSQL server: run ``make setup``."""

    def __init__(self) -> None:
        super().__init__(f"no initdb on PATH or in {DEBIAN_HOME}: run `make setup`, or install the package postgresql")


class DataDirError(Exception):
    """The server's user cannot use the data directory, or its socket would have too long a name. Choose another one."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"PostgreSQL cannot use {path}: {why}. Choose a directory such as one of tempfile.mkdtemp()")


class LocalPostgres:
    """One server; as root it runs as ``postgres`` (or ``nobody``), because it refuses root. Data survive a restart.

    Args:
        data_dir: made if missing; all its parents must be open to the server's user.
        port: 0: any free one.
    """

    def __init__(self, data_dir: Path, port: int = 0) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port or free_ports(1)[0]
        self._user = _server_user()
        self._cluster = self.data_dir / "cluster"
        self._process: ManagedProcess | None = None

    @property
    def url(self) -> str:
        """With the one superuser, who needs no password here."""
        return f"postgresql://{SUPERUSER}@{LOOPBACK}:{self.port}/postgres"

    @property
    def log(self) -> Path:
        return self.data_dir / "postgres.log"

    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running()

    def start(self) -> None:
        """Make the cluster if there is none, start, and wait until it takes connections.

        Raises:
            PostgresNotInstalledError: no server on this machine.
            DataDirError: the directory will not do.
            PortTakenError: another process listens on its port.
            ProcessError: it did not come up; holds the end of its log.
        """
        binaries = find_binaries()
        require_free(self.port)
        self._prepare(binaries)
        self._process = ManagedProcess(Command("PostgreSQL", self._argv(binaries), self.log, cwd=self.data_dir, user=self._user))
        self._process.start()
        self._process.wait_until(self._is_ready, START_TIMEOUT_S)

    def stop(self) -> None:
        """End sessions and stop. SIGINT: at SIGTERM it would wait for its clients to leave."""
        if self._process is not None:
            self._process.signal(signal.SIGINT)
            self._process.wait(STOP_TIMEOUT_S)
            self._process.kill()

    def restart(self) -> None:
        """Stop, then start on the same port with the same data."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _prepare(self, binaries: Path) -> None:
        if len(str(self.data_dir).encode()) > MAX_SOCKET_DIR_BYTES:
            raise DataDirError(self.data_dir, "its name is too long for a socket")
        own(self.data_dir, self._user)
        if os.geteuid() == 0 and (closed := [path for path in self.data_dir.parents if not path.stat().st_mode & 0o001]):
            raise DataDirError(self.data_dir, f"user {self._user} may not enter {closed[0]}")
        if not (self._cluster / "PG_VERSION").exists():
            argv = [str(binaries / "initdb"), "-D", str(self._cluster), "-U", SUPERUSER, "--auth=trust", "--no-sync"]
            argv += ["--encoding=UTF8", "--locale=C"]
            initdb = ManagedProcess(Command("initdb", argv, self.log, cwd=self.data_dir, user=self._user))
            initdb.start()
            initdb.require_success(INITDB_TIMEOUT_S)

    def _argv(self, binaries: Path) -> list[str]:
        options = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": str(self.data_dir),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "16MB",
            "max_connections": "40",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(binaries / "postgres"), "-D", str(self._cluster), "-p", str(self.port), *settings]

    def _is_ready(self) -> bool:
        """The file may be of a run before that was killed, so its process id counts, too."""
        assert self._process is not None
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > STATUS_LINE and lines[0] == str(self._process.pid) and lines[STATUS_LINE].strip() == "ready"


def find_binaries() -> Path:
    """Folder of ``initdb`` and ``postgres``: PATH first, then the newest of Debian's.

    Raises:
        PostgresNotInstalledError: neither.
    """
    if (initdb := shutil.which("initdb")) is not None:
        return Path(initdb).resolve().parent
    versions = sorted(DEBIAN_HOME.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0)
    if not versions:
        raise PostgresNotInstalledError
    return versions[-1].parent


def _server_user() -> str | None:
    """Whom root becomes; taken only by root."""
    known = {account.pw_name for account in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)

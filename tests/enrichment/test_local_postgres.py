"""The native PostgreSQL keeps what tests expect of it."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from deploy.local import postgres as module
from deploy.local.ports import is_free
from deploy.local.postgres import DataDirError, LocalPostgres, PostgresNotInstalledError

pytestmark = pytest.mark.integration


def test_it_listens_where_it_says_and_never_as_root(postgres: LocalPostgres) -> None:
    assert postgres.is_running()
    assert not is_free(postgres.port)
    listed = psutil.process_iter(["cmdline"])  # asks a zombie for nothing: it has no command line
    server = next(p for p in listed if f"-p {postgres.port}" in " ".join(p.info["cmdline"] or ()))
    assert server.uids().effective != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_a_directory_that_its_user_may_not_enter_is_refused(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(DataDirError, match=r"may not enter .* Choose a directory"):
        LocalPostgres(closed / "pg").start()


def test_a_name_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="too long for a socket"):
        LocalPostgres(tmp_path / ("x" * 100)).start()


def test_a_machine_without_postgresql_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "DEBIAN_HOME", tmp_path)

    with pytest.raises(PostgresNotInstalledError, match="make setup"):
        LocalPostgres(tmp_path / "pg").start()

"""A Prometheus on the loopback interface that scrapes the demo's workers, with the alert rules that ship with Veltrix."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path

from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.process import Command, ManagedProcess
from deploy.local.worker_process import ROOT, http_get

SHIPPED = ROOT / "deploy" / "observability" / "prometheus"
START_TIMEOUT_S = 30.0


def prometheus_is_there() -> bool:
    """Whether the program is on PATH. The demo does without it."""
    return shutil.which("prometheus") is not None


class LocalPrometheus:
    """One Prometheus with the shipped configuration, in ``folder``."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_ports(1)[0]
        self._folder = folder.resolve()
        self._scraped: tuple[int, ...] = ()
        argv = [
            "prometheus", f"--config.file={self._folder / 'prometheus.yml'}", f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self.port}", "--log.level=warn", "--enable-feature=exemplar-storage",
        ]  # fmt: skip
        self._process = ManagedProcess(Command("Prometheus", argv, self._folder / "prometheus.log"))

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        return self._process.command.log

    def is_running(self) -> bool:
        return self._process.is_running()

    def start(self) -> None:
        """Start and wait until it answers.

        Raises:
            ProcessError: it did not come up; holds the end of its log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for name in ("prometheus.yml", "rules.yml"):
            shutil.copy(SHIPPED / name, self._folder / name)
        self._process.start()
        self._process.wait_until(self._answers, START_TIMEOUT_S)

    def scrape(self, ports: Iterable[int]) -> None:
        """Scrape the workers whose sidecars listen there, and no others, from now on."""
        wanted = tuple(ports)
        if wanted == self._scraped:
            return
        targets = [{"targets": [f"{LOOPBACK}:{port}" for port in wanted], "labels": {"role": "worker"}}]
        temporary = self._folder / "targets.tmp"
        temporary.write_text(json.dumps(targets), encoding="utf-8")
        temporary.replace(self._folder / "targets.json")
        self._scraped = wanted

    def stop(self) -> None:
        self._process.stop()

    def _answers(self) -> bool:
        try:
            return http_get(self.port, "/-/ready")[0] == HTTPStatus.OK
        except OSError:
            return False

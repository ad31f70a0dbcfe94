"""The demo on Docker Compose: the services of compose.yaml, seen from this machine."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from deploy.local.demo_stack import (
    AT_LEAST_ONCE,
    GRAFANA_PORT,
    JAEGER_PORT,
    KAFKA_PORT,
    PROMETHEUS_PORT,
    READY_TIMEOUT_S,
    REDIS_PORT,
    SIDECAR_PORT,
    Say,
)
from deploy.local.demo_state import WorkerRef
from deploy.local.ports import LOOPBACK, free_ports, is_free
from deploy.local.process import Command, ManagedProcess, ProcessError
from deploy.local.worker_process import ROOT, clean_environment, http_get

PROJECT = "veltrix-demo"
ANSWER_TIMEOUT_S = 3.0
UP_TIMEOUT_S = 900.0  # the first time builds an image and pulls six
#: Prometheus, Grafana with the dashboards, and a Jaeger that the worker sends its traces to; `down` must know the profile, too.
OBSERVED = {"COMPOSE_PROFILES": "observability", "OTLP_ENDPOINT": "http://jaeger:4318"}
STOP_TIMEOUT_S = 90.0
SILENCE_S = 15.0


def docker_answers() -> bool:
    """Whether an engine (and not only the command) is there and answers within three seconds."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=ANSWER_TIMEOUT_S, check=False)  # noqa: S607
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class DockerStack:
    """One compose project with fresh volumes. Published ports are the tools' defaults where they are free."""

    def __init__(self, folder: Path, is_cancelled: Callable[[], bool], guarantee: str = AT_LEAST_ONCE) -> None:
        self._is_cancelled, self._guarantee = is_cancelled, guarantee
        self._log = folder / "docker.log"
        wanted = (KAFKA_PORT, REDIS_PORT, SIDECAR_PORT, PROMETHEUS_PORT, GRAFANA_PORT, JAEGER_PORT)
        found = [port if is_free(port) else free_ports(1)[0] for port in wanted]
        self._kafka, self._redis, self._sidecar, self._prometheus, self._grafana, self._jaeger = found
        self._last_answer = time.monotonic()

    def env(self) -> Mapping[str, str]:
        return {
            "VELTRIX_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{self._kafka}",
            "VELTRIX_REDIS_URL": f"redis://{LOOPBACK}:{self._redis}/0",
            "VELTRIX_PROCESSING_GUARANTEE": self._guarantee,
        }

    def worker(self) -> WorkerRef:
        return WorkerRef("worker-1", self._sidecar, os.getpid())

    def pages(self) -> Mapping[str, str]:
        return {
            "Prometheus": f"http://{LOOPBACK}:{self._prometheus}",
            "Grafana": f"http://{LOOPBACK}:{self._grafana} (admin / admin)",
            "Traces": f"http://{LOOPBACK}:{self._jaeger}",
        }

    def ports(self) -> dict[str, str]:
        """Variables of compose.yaml."""
        ports = {
            "KAFKA_PORT": self._kafka, "REDIS_PORT": self._redis, "SIDECAR_PORT": self._sidecar,
            "PROMETHEUS_PORT": self._prometheus, "GRAFANA_PORT": self._grafana, "JAEGER_PORT": self._jaeger,
        }  # fmt: skip
        return {name: str(port) for name, port in ports.items()}

    def start(self, say: Say) -> None:
        """Build, start, wait until every service is healthy.

        Raises:
            ProcessError: one did not come up; holds the end of compose's output.
        """
        began = time.monotonic()
        self._log.unlink(missing_ok=True)
        self._compose("down", "--volumes", "--remove-orphans", timeout_s=STOP_TIMEOUT_S)
        # Not --wait: it takes the topics job, which ends as it should, for a failure.
        self._compose("up", "--detach", "--build", timeout_s=UP_TIMEOUT_S)
        self._wait_ready(time.monotonic() + READY_TIMEOUT_S)
        say(f"Docker Compose project {PROJECT} ({time.monotonic() - began:.0f} s)")

    def check(self) -> str:
        try:
            http_get(self._sidecar, "/livez")
            self._last_answer = time.monotonic()
        except OSError:  # compose starts a killed one again
            if time.monotonic() - self._last_answer > SILENCE_S:
                self._fail("does not answer any more")
            return "worker-1 does not answer"
        return ""

    def stop_worker(self) -> None:
        self._compose("stop", "worker", timeout_s=STOP_TIMEOUT_S)
        state = self._compose("ps", "--all", "--format", "{{.ExitCode}}", "worker", timeout_s=STOP_TIMEOUT_S)
        if state.split() != ["0"]:
            self._fail("did not stop cleanly")

    def close(self) -> None:
        self._compose("down", "--volumes", "--remove-orphans", timeout_s=STOP_TIMEOUT_S)

    def _wait_ready(self, deadline: float) -> None:
        while not self._is_cancelled() and not self._is_ready():
            if time.monotonic() > deadline:
                self._fail(f"did not become ready within {READY_TIMEOUT_S:g} s")
            time.sleep(0.5)

    def _is_ready(self) -> bool:
        try:
            return http_get(self._sidecar, "/readyz")[0] == HTTPStatus.OK
        except OSError:
            return False

    def _fail(self, what: str) -> None:
        self._compose("logs", "--no-color", "--tail", "25", "worker", timeout_s=STOP_TIMEOUT_S, output=self._log)
        raise ProcessError("worker-1", what, self._log)

    def _compose(self, *words: str, timeout_s: float, output: Path | None = None) -> str:
        """Run one compose command to its end; its standard output."""
        out = output or self._log.with_suffix(".out")
        out.parent.mkdir(parents=True, exist_ok=True)
        if output is None:
            out.unlink(missing_ok=True)
        env = clean_environment() | self.ports() | OBSERVED | {"GUARANTEE": self._guarantee}
        argv = ["docker", "compose", "--project-name", PROJECT, "--file", str(ROOT / "compose.yaml"), *words]
        process = ManagedProcess(Command(f"docker compose {words[0]}", argv, self._log, cwd=ROOT, env=env, stdout=out))
        process.start()
        process.require_success(timeout_s, self._is_cancelled if words[0] == "up" else lambda: False)
        return out.read_text(encoding="utf-8")

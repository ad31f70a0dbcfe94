"""What the demo runs on: Kafka, Redis, one worker, ``veltrix admin``, and Prometheus where it is installed, as processes of this machine."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from deploy.local.admin_process import admin_process
from deploy.local.demo_state import DemoFiles, WorkerRef
from deploy.local.demo_traffic import apply_topics, seed_reference
from deploy.local.kafka import LocalKafka
from deploy.local.ports import LOOPBACK, free_ports, is_free
from deploy.local.process import ProcessError
from deploy.local.prometheus import LocalPrometheus, prometheus_is_there
from deploy.local.redis import LocalRedis
from deploy.local.worker_process import WorkerProcess

KAFKA_PORT, REDIS_PORT, SIDECAR_PORT, ADMIN_PORT = 9092, 6379, 8080, 8091
PROMETHEUS_PORT, GRAFANA_PORT, JAEGER_PORT = 9090, 3000, 16686
READY_TIMEOUT_S = 90.0

AT_LEAST_ONCE, EXACTLY_ONCE = "at_least_once", "exactly_once"
#: As a pod would have it: started again it takes its partitions at once.
STATIC = {"VELTRIX_GROUP_INSTANCE_ID": "worker-1"}

Say = Callable[[str], None]


class Stack(Protocol):
    """Everything but the traffic. ``start`` says each step; ``close`` may be called at any time, more than once."""

    def start(self, say: Say) -> None: ...

    def env(self) -> Mapping[str, str]:
        """``VELTRIX_*`` variables of tools on this machine."""
        ...

    def worker(self) -> WorkerRef: ...

    def pages(self) -> Mapping[str, str]:
        """What there is to look at beside the worker: name to URL."""
        ...

    def check(self) -> str:
        """What there is to be said: a worker that was killed is on its way back. ProcessError when a part has ended by itself."""
        ...

    def stop_worker(self) -> None:
        """The clean stop; ProcessError when it was none."""
        ...

    def close(self) -> None: ...


class NativeStack:
    """Fresh data at every start; the logs stay under ``folder`` afterwards.

    Args:
        folder: emptied when it is used.
        is_cancelled: asked while a slow step waits.
        guarantee: of the worker.
    """

    def __init__(self, folder: Path, is_cancelled: Callable[[], bool], guarantee: str = AT_LEAST_ONCE) -> None:
        self._folder, self._guarantee = folder, guarantee
        self._is_cancelled = is_cancelled
        self._kafka = LocalKafka(folder / "kafka", _port(KAFKA_PORT))
        self._redis = LocalRedis(folder / "redis", _port(REDIS_PORT))
        self._admin_port = _port(ADMIN_PORT)
        self._worker = WorkerProcess(folder / "worker", self.env() | STATIC, "worker-1", _port(SIDECAR_PORT))
        self._is_worker_up, self._said = False, ""
        self._admin = admin_process(folder / "admin", self.env(), self._admin_port)
        self._prometheus = LocalPrometheus(folder / "prometheus", _port(PROMETHEUS_PORT)) if prometheus_is_there() else None

    def env(self) -> dict[str, str]:
        return {
            "VELTRIX_KAFKA_BOOTSTRAP": self._kafka.bootstrap,
            "VELTRIX_REDIS_URL": self._redis.url,
            "VELTRIX_ADMIN_URL": f"http://{LOOPBACK}:{self._admin_port}",
            "VELTRIX_PROCESSING_GUARANTEE": self._guarantee,
            "VELTRIX_ENRICHMENT_ENABLED": "true",
            "VELTRIX_REFERENCE_URL": f"sqlite:///{self._folder / 'reference.sqlite'}",
            # A file of our own need not be spared, and everything is cold at first.
            "VELTRIX_REFERENCE_QUERIES_PER_S": "2000",
        }

    def worker(self) -> WorkerRef:
        return WorkerRef(self._worker.name, self._worker.port, self._worker.pid)

    def pages(self) -> Mapping[str, str]:
        pages = {"what went wrong": ".venv/bin/veltrix dlq groups"}
        return pages if self._prometheus is None else pages | {"alerts": f"{self._prometheus.url}/alerts"}

    def start(self, say: Say) -> None:
        """Start all parts in order; returns early when cancelled.

        Raises:
            ProcessError, KafkaError, JavaError, RedisNotInstalledError: a part did not come up.
        """
        _empty(self._folder)
        steps: list[tuple[str, Callable[[], None]]] = [
            (f"Kafka on {self._kafka.bootstrap}", self._kafka.start),
            (f"Redis on {self._redis.url}", self._redis.start),
            ("topics applied", lambda: apply_topics(self._folder, self.env())),
            ("reference data filled", lambda: seed_reference(self._folder, self.env())),
            ("worker ready", self._start_worker),
            (f"veltrix admin on {self.env()['VELTRIX_ADMIN_URL']}", self._admin.start),
        ]
        if self._prometheus is not None:
            steps.append((f"Prometheus on {self._prometheus.url}", self._prometheus.start))
        for what, step in steps:
            if self._is_cancelled():
                return
            began = time.monotonic()
            step()
            say(f"{what} ({time.monotonic() - began:.1f} s)")

    def check(self) -> str:
        for name, part in (("Kafka", self._kafka), ("Redis", self._redis), ("veltrix admin", self._admin)):
            if not part.is_running():
                raise ProcessError(name, "ended by itself", part.log)
        self._look_after_worker()
        if self._prometheus is not None:
            self._prometheus.scrape([self._worker.port, *(worker.port for worker in DemoFiles(self._folder).joined())])
        return self._said

    def stop_worker(self) -> None:
        if (status := self._worker.terminate()) != 0:
            raise ProcessError(self._worker.name, "did not stop cleanly", self._worker.log, status)

    def close(self) -> None:
        self._worker.kill9()
        self._admin.stop()
        if self._prometheus is not None:
            self._prometheus.stop()
        self._redis.stop()
        self._kafka.stop()

    def _start_worker(self) -> None:
        self._worker.start()
        self._worker.wait_ready(READY_TIMEOUT_S, self._is_cancelled)
        self._is_worker_up = True

    def _look_after_worker(self) -> None:
        """What an orchestrator does: one that was killed, or ended itself to keep a promise, is started again; not one that cannot start."""
        worker, status = self._worker, self._worker.exit_status()
        if status is None:
            if not self._is_worker_up and worker.is_ready():
                self._is_worker_up, self._said = True, ""
        elif status == -signal.SIGKILL or (self._is_worker_up and (status < 0 or status == os.EX_SOFTWARE)):
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended by itself ({status})"
            self._is_worker_up, self._said = False, f"{worker.name} was {how} and is started again"
            worker.start()
        else:
            raise ProcessError(worker.name, "ended by itself", worker.log, status)


def _port(wanted: int) -> int:
    """The port that the tools look at by default, so that they work without a setting; else any."""
    return wanted if is_free(wanted) else free_ports(1)[0]


def _empty(folder: Path) -> None:
    """Old offsets beside a new Kafka would be nonsense."""
    for part in ("kafka", "redis", "worker", "workers", "admin"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for file in (
        "generate.json",
        "generate.log",
        "seed.log",
        "topics.log",
        *(f"reference.sqlite{end}" for end in ("", "-wal", "-shm")),
    ):
        (folder / file).unlink(missing_ok=True)

"""Kafka and Redis of one run, and the two subjects: the worker and the hand-written loop, each a process.

A subject is started with the settings of its case, becomes ready by its own word, and is measured from outside only:
offsets in Kafka, /proc, and the time at which others can read its results.
"""

from __future__ import annotations

import http.client
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

import msgspec
import redis

from app.settings import Settings, load_settings
from app.topics import ENRICHED, INTERACTIONS, Topic, all_topics, changelog_of, dead_letters_of
from bench.handloop import AGENT as HAND_AGENT
from bench.handloop import ENRICHED as HAND_ENRICHED
from bench.handloop import SOURCE as HAND_SOURCE
from bench.kafka import Kafka
from deploy.local.kafka import LocalKafka
from deploy.local.ports import LOOPBACK, free_ports
from deploy.local.process import Command, ManagedProcess, tail
from deploy.local.redis import LocalRedis

ROOT = Path(__file__).resolve().parent.parent
START_S = 90.0
STOP_S = 30.0
WORKER_AGENT = "process_interactions"


@dataclass(frozen=True, slots=True)
class Services:
    """What all cases of a run share. ``folder`` is on disk and goes away with the run."""

    folder: Path
    broker: LocalKafka
    redis: LocalRedis
    kafka: Kafka

    def flush_redis(self) -> None:
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushdb()

    def redis_keys(self) -> int:
        with redis.Redis.from_url(self.redis.url) as client:
            return int(client.dbsize())


@contextmanager
def local_services(keep: Path | None = None) -> Iterator[Services]:
    """Start a fresh Kafka and Redis, stop them at the end. ``keep`` names a folder to use and leave behind."""
    with tempfile.TemporaryDirectory(prefix="veltrix-bench-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with LocalKafka(folder / "kafka", heap_mb=1024) as broker, LocalRedis(folder / "redis") as cache:
            yield Services(folder, broker, cache, Kafka(broker.bootstrap))


@dataclass(frozen=True, slots=True)
class Setup:
    """The settings of one subject in one case. ``redis`` False: lookups switched off."""

    app_id: str
    partitions: int
    redis: bool
    source: str = INTERACTIONS
    extra: Mapping[str, str] = field(default_factory=dict)
    """more settings, by name"""

    def settings(self, services: Services) -> Settings:
        """The settings the subject will read from its environment."""
        return load_settings(**self.variables(services))

    def variables(self, services: Services) -> dict[str, str]:
        """Names and values without the ``VELTRIX_`` prefix."""
        return {
            "app_id": self.app_id,
            "partitions": str(self.partitions),
            "kafka_bootstrap": services.broker.bootstrap,
            "redis_url": services.redis.url if self.redis else "",
            "data_dir": str(services.folder / self.app_id),
            "log_level": "warning",
        } | dict(self.extra)


class Subject(Protocol):
    """A system under test. ``output`` and ``changelog`` are its topics; ``setup`` what it was made for."""

    name: str
    setup: Setup
    output: str
    changelog: str
    dead_letters: str

    @property
    def pid(self) -> int: ...

    def topics(self, services: Services) -> list[Topic]:
        """Every topic it needs except its source."""
        ...

    def start(self) -> None:
        """Start the process and return at once."""
        ...

    def wait_ready(self) -> None:
        """Return when it has its partitions and restored its state.

        Raises:
            ProcessError: it ended or took too long.
        """
        ...

    def check(self) -> None:
        """Raise ProcessError when it has ended by itself."""
        ...

    def restored(self) -> Restored:
        """What it says about the restore of its last start."""
        ...

    def stop(self) -> None: ...


class Restored(msgspec.Struct, frozen=True):
    """A finished restore: changelog records and the seconds they took."""

    records: int
    seconds: float


class SubjectError(Exception):
    """The subject ended although the case was not over. Carries the end of its log."""

    def __init__(self, name: str, status: int | None, log: Path) -> None:
        super().__init__(f"{name} ended by itself (status {status}). Last lines of {log}:\n{tail(log)}")


class _Process:
    """What both subjects share."""

    name = ""

    def __init__(self, services: Services, setup: Setup, argv: list[str], extra: Mapping[str, str]) -> None:
        self.setup = setup
        variables = setup.variables(services) | dict(extra)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VELTRIX_")}
        env = clean | {f"VELTRIX_{name.upper()}": value for name, value in variables.items()}
        self._out = services.folder / f"{setup.app_id}-{self.name}.out"
        log = self._out.with_suffix(".log")
        self._process = ManagedProcess(Command(self.name, argv, log, cwd=ROOT, env=env, stdout=self._out))

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self._out.write_bytes(b"")
        self._process.start()

    def check(self) -> None:
        if not self._process.is_running():
            raise SubjectError(self.name, self._process.exit_status(), self._process.command.log)

    def stop(self) -> None:
        self._process.stop(STOP_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self.stop()


class Worker(_Process):
    """``faust -A app.main worker``, as anyone starts it."""

    name = "worker"

    def __init__(self, services: Services, setup: Setup, app: str = "app.main") -> None:
        self.port = free_ports(1)[0]
        faust = str(Path(sys.executable).parent / "faust")
        super().__init__(services, setup, [faust, "-A", app, "worker"], {"sidecar_port": str(self.port)})
        self.output = ENRICHED
        self.changelog = changelog_of(setup.app_id, WORKER_AGENT)
        self.dead_letters = dead_letters_of(setup.app_id, setup.source)

    def topics(self, services: Services) -> list[Topic]:
        return [topic for topic in all_topics(self.setup.settings(services)) if topic.name != INTERACTIONS]

    def wait_ready(self) -> None:
        self._process.wait_until(lambda: _get(self.port, "/readyz")[0] == 200, START_S)

    def restored(self) -> Restored:
        samples = metrics(_get(self.port, "/metrics")[1].decode())
        records, rate = int(samples["veltrix_recovery_restored_records_total"]), samples["veltrix_recovery_records_per_second"]
        return Restored(records, records / rate if rate else 0.0)


class Serve(_Process):
    """``veltrix serve`` for the worker of the same ``setup``."""

    name = "serve"

    def __init__(self, services: Services, setup: Setup) -> None:
        self.port = free_ports(1)[0]
        veltrix = str(Path(sys.executable).parent / "veltrix")
        super().__init__(services, setup, [veltrix, "serve"], {"serve_port": str(self.port)})

    def wait_ready(self) -> None:
        """Return when it reads Redis.

        Raises:
            ProcessError: it ended or took too long.
        """
        self._process.wait_until(lambda: _get(self.port, "/readyz")[0] == 200, START_S)


class HandLoop(_Process):
    """The hand-written loop of ``bench/handloop.py``: the yardstick."""

    name = "hand"

    def __init__(self, services: Services, setup: Setup) -> None:
        super().__init__(services, setup, [sys.executable, "-m", "bench.handloop", setup.source], {})
        self.output = HAND_ENRICHED
        self.changelog = changelog_of(setup.app_id, HAND_AGENT)
        self.dead_letters = dead_letters_of(setup.app_id, setup.source)

    def topics(self, services: Services) -> list[Topic]:
        settings = self.setup.settings(services)
        like_the_workers = {topic.name: topic for topic in all_topics(settings, [HAND_AGENT])}
        output = like_the_workers.pop(ENRICHED)
        source = like_the_workers.pop(INTERACTIONS)
        dead = like_the_workers.pop(dead_letters_of(settings.app_id, INTERACTIONS))
        made = [
            Topic(self.output, output.partitions, "bench", output.config),
            Topic(self.dead_letters, dead.partitions, "bench", dead.config),
        ]
        own_source = [Topic(HAND_SOURCE, source.partitions, "bench", source.config)] if self.setup.source == HAND_SOURCE else []
        return [*like_the_workers.values(), *made, *own_source]

    def wait_ready(self) -> None:
        self._process.wait_until(lambda: self._out.read_bytes().count(b"\n") > 0, START_S)

    def restored(self) -> Restored:
        return msgspec.json.decode(self._out.read_bytes().splitlines()[0], type=Restored)


def _get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; status 0 while nobody answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def metrics(text: str) -> dict[str, float]:
    """Sums over all label sets of each metric in Prometheus' text format."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums

"""On what a result was measured: processor, cores, versions, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import msgspec

from deploy.local.kafka import JARS

LIBRARIES = ("faust-streaming", "aiokafka", "confluent-kafka", "rocksdict", "msgspec", "redis", "uvloop")


class Host(msgspec.Struct, frozen=True):
    """The machine and what ran on it. ``load`` is the 1-minute load average when the run began."""

    cpu: str
    cores: int
    memory_gib: float
    load: float
    versions: dict[str, str]


def describe_host() -> Host:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return Host(
        cpu_model(Path("/proc/cpuinfo").read_text(encoding="utf-8")),
        len(os.sched_getaffinity(0)),
        round(memory, 1),
        load(),
        versions(),
    )


def load() -> float:
    """1-minute load average."""
    return round(os.getloadavg()[0], 2)


def cpu_model(cpuinfo: str) -> str:
    """Model name from /proc/cpuinfo; the architecture where there is none (ARM)."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    found = {name: version(name) for name in LIBRARIES}
    return found | {
        "python": platform.python_version(),
        "kafka": kafka_version(path.name for path in JARS.glob("kafka_*.jar")),
        "redis-server": redis_version(),
    }


def kafka_version(jars: Iterable[str]) -> str:
    """Broker version from the name of its jar (``kafka_2.13-4.4.0.jar``)."""
    return next((match.group(1) for name in jars if (match := re.fullmatch(r"kafka_[\d.]+-(.+)\.jar", name))), "unknown")


def redis_version() -> str:
    """Version that ``redis-server --version`` states."""
    done = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, timeout=10, check=True)
    found = re.search(r"v=(\S+)", done.stdout)
    return found.group(1) if found else "unknown"

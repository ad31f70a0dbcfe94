"""Finding a Java runtime that can run the broker."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

MINIMUM = 17  # Kafka 4 brokers


class JavaError(Exception):
    """No usable Java. The message says what was looked at and what to install."""


@functools.cache
def find_java() -> str:
    """Path of ``java`` from JAVA_HOME, else from PATH.

    Raises:
        JavaError: none there, or older than 17.
    """
    home = os.environ.get("JAVA_HOME")
    path = str(Path(home, "bin", "java")) if home else shutil.which("java")
    if path is None or not os.access(path, os.X_OK):
        where = f"JAVA_HOME={home} has no bin/java" if home else "no java on PATH"
        raise JavaError(f"Kafka needs Java {MINIMUM} or newer, but {where}: run `make setup`, or set JAVA_HOME")
    version = java_major(subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr)  # noqa: S603
    if version < MINIMUM:
        raise JavaError(f"Kafka needs Java {MINIMUM} or newer, but {path} is Java {version}: run `make setup`, or set JAVA_HOME")
    return path


def java_major(banner: str) -> int:
    """17 from ``openjdk version "17.0.15" ...``, 8 from ``java version "1.8.0_422"``; 0 when it says neither."""
    match = re.search(r'version "(?:1\.)?(\d+)', banner)
    return int(match[1]) if match else 0

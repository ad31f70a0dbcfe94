"""How full the disk is that the tables are on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from app.telemetry import catalogue as m
from app.telemetry.exposition import Catalogue
from app.telemetry.metric import Reading


class DiskMetrics:
    """Asks the file system of ``directory`` at each scrape; says nothing while that does not exist."""

    def __init__(self, catalogue: Catalogue, directory: Path) -> None:
        self._directory = directory
        catalogue.add(self)

    def readings(self) -> Iterator[Reading]:
        if self._directory.is_dir():
            usage = shutil.disk_usage(self._directory)
            yield m.DISK_FREE, (), usage.free
            yield m.DISK_SIZE, (), usage.total

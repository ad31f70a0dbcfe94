"""``make dialects``: has every system of which there is a package write a dead letter, and keeps them as fixtures.

Needs Maven and a JDK 17. Anew after a version in ``pom.xml`` or ``ARROYO`` has changed: what is then different is what that
release writes differently.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

from deploy.local.kafka import LocalKafka

HERE: Final = Path(__file__).parent
FIXTURES: Final = HERE.parent / "fixtures" / "dialects.jsonl"
ARROYO: Final = "sentry-arroyo==2.48.0"


def main() -> None:
    """Write the fixtures."""
    with tempfile.TemporaryDirectory() as folder:
        lines = _java(Path(folder)) + _python(Path(folder))
    FIXTURES.parent.mkdir(exist_ok=True)
    FIXTURES.write_text(lines, encoding="utf-8")
    sys.stderr.write(f"{FIXTURES}: {lines.count(chr(10))} dead letters\n")


def _java(folder: Path) -> str:
    jars = folder / "jars"
    _run("mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies", f"-DoutputDirectory={jars}")
    with LocalKafka(folder / "kafka") as broker:
        return _run("java", "-cp", f"{jars}/*", str(HERE / "Dialects.java"), broker.bootstrap)


def _python(folder: Path) -> str:
    venv.create(folder / "venv", with_pip=True)
    python = str(folder / "venv" / "bin" / "python")
    _run(python, "-m", "pip", "install", "--quiet", ARROYO)
    return _run(python, str(HERE / "arroyo_letter.py"))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()

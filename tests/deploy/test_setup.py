"""``make setup`` as a new machine meets it. Programs are faked on a PATH of their own; nothing is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).parents[2] / "deploy" / "local" / "setup.sh"
JAVA_17 = "echo 'openjdk version \"17.0.15\"' >&2"
JAVA_11 = "echo 'openjdk version \"11.0.2\"' >&2"


class Machine:
    """A machine with only the programs that the test gives it."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        # A copy, so that no jars of the real tree are beside it.
        self.script = folder / "deploy" / "setup.sh"
        self.script.parent.mkdir()
        shutil.copy(SCRIPT, self.script)
        (self.bin / "python3").symlink_to(sys.executable)
        self.postgres_home = folder / "postgresql"

    def has(self, program: str, code: str = "exit 0") -> None:
        (self.bin / program).unlink(missing_ok=True)
        (self.bin / program).write_text(f"#!/bin/bash\n{code}\n")
        (self.bin / program).chmod(0o755)

    def has_everything(self, uid: int = 0) -> None:
        self.has("java", JAVA_17)
        for program in ("mvn", "redis-server", "postgres", "apt-get", "apt-cache"):
            self.has(program)
        self.has("id", f"echo {uid}")

    def lacks(self, *programs: str) -> None:
        for program in programs:
            (self.bin / program).unlink()

    def setup(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        bash = shutil.which("bash")
        assert bash is not None
        return subprocess.run(
            [bash, str(self.script), *args],
            env={"PATH": str(self.bin), "POSTGRES_HOME": str(self.postgres_home), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.has_everything()
    return made


def test_a_complete_machine_is_left_alone(machine: Machine) -> None:
    machine.has("apt-get", "echo installed >&2; exit 9")

    result = machine.setup()

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_root_installs_exactly_what_is_missing(machine: Machine) -> None:
    machine.lacks("java", "redis-server")

    result = machine.setup("--dry-run")

    assert result.stdout == "would run: apt-get install -y --no-install-recommends openjdk-17-jre-headless redis-server\n"
    assert result.returncode == 0


def test_what_only_tests_need_is_installed_for_tests_alone(machine: Machine) -> None:
    assert machine.setup("--dry-run").stdout == ""
    assert machine.setup("--tests", "--dry-run").stdout == (
        "would run: apt-get install -y --no-install-recommends curl prometheus chromium\n"
    )


def test_an_unknown_option_is_refused_and_the_known_ones_are_named(machine: Machine) -> None:
    result = machine.setup("--test")

    assert (result.returncode, result.stderr) == (2, "setup: unknown option --test; there are --tests and --dry-run\n")


def test_an_installation_that_brings_everything_succeeds(machine: Machine, tmp_path: Path) -> None:
    machine.lacks("redis-server")
    program = machine.bin / "redis-server"
    machine.has("apt-get", f'echo "$@" >> {tmp_path}/apt; if [[ $1 == install ]]; then cp {machine.bin}/mvn {program}; fi')
    (machine.bin / "cp").symlink_to(shutil.which("cp") or "")

    result = machine.setup()

    assert result.returncode == 0, result.stderr
    assert (tmp_path / "apt").read_text().splitlines() == ["update -qq", "install -y --no-install-recommends redis-server"]


def test_an_installation_that_does_not_help_is_an_error(machine: Machine) -> None:
    machine.lacks("redis-server")

    result = machine.setup()

    assert (result.returncode, "still missing after the installation: redis-server" in result.stderr) == (2, True)


def test_a_failing_package_manager_is_an_error(machine: Machine) -> None:
    machine.lacks("mvn")
    machine.has("apt-get", "exit 100")

    assert machine.setup().returncode == 100


def test_an_ordinary_user_is_told_the_command(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    machine.lacks("mvn")

    result = machine.setup()

    assert result.returncode == 2
    assert "Run: sudo apt-get install -y --no-install-recommends maven" in result.stderr


def test_another_system_is_told_what_is_missing(machine: Machine) -> None:
    machine.lacks("apt-get", "apt-cache", "redis-server")

    result = machine.setup()

    assert result.returncode == 2
    assert "missing: redis-server. This is no Debian or Ubuntu" in result.stderr


def test_maven_is_not_needed_once_the_jars_are_there(machine: Machine) -> None:
    machine.lacks("mvn")
    jars = machine.script.parent / "target" / "dependency"
    jars.mkdir(parents=True)
    (jars / "kafka_2.13-4.0.0.jar").touch()

    assert machine.setup("--dry-run").stdout == ""


def test_postgresql_is_installed_where_there_is_none(machine: Machine) -> None:
    machine.lacks("postgres")

    assert machine.setup("--dry-run").stdout == "would run: apt-get install -y --no-install-recommends postgresql\n"


def test_a_postgresql_off_the_path_is_found(machine: Machine) -> None:
    machine.lacks("postgres")
    server = machine.postgres_home / "15" / "bin" / "postgres"
    server.parent.mkdir(parents=True)
    server.touch()

    assert machine.setup("--dry-run").stdout == ""


def test_a_release_without_openjdk_17_gets_its_default_java(machine: Machine) -> None:
    machine.has("java", JAVA_11)
    machine.has("apt-cache", "exit 100")

    assert "default-jre-headless" in machine.setup("--dry-run").stdout


def test_an_old_java_home_must_be_changed_by_its_owner(machine: Machine, tmp_path: Path) -> None:
    old = tmp_path / "java11" / "bin" / "java"
    old.parent.mkdir(parents=True)
    old.write_text(f"#!/bin/bash\n{JAVA_11}\n")
    old.chmod(0o755)

    result = machine.setup(JAVA_HOME=str(tmp_path / "java11"))

    assert (result.returncode, "is not Java 17 or newer" in result.stderr) == (2, True)


@pytest.mark.parametrize("version", ["3, 10", "3, 14"])
def test_an_unsupported_python_is_refused(version: str, machine: Machine) -> None:
    program = (
        f'case "$1" in -V) echo Python {version};; *) {sys.executable} -c "import sys; sys.version_info = ({version}); $2";; esac'
    )
    machine.has("python3", program)

    result = machine.setup()

    assert result.returncode == 2
    assert "Veltrix needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12" in result.stderr


def test_a_missing_python_is_named(machine: Machine) -> None:
    result = machine.setup(PYTHON="python9")

    assert (result.returncode, "no python9 on PATH" in result.stderr) == (2, True)

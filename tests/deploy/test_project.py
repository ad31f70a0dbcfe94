"""Project files agree with each other: dependencies, locks, Makefile."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
OURS = {"agents", "app", "bench", "deploy", "tables", "tests"}
#: Imported under another project's name: Faust's own dependency, and FastAPI's.
COME_ALONG = {
    "cryptography": "pyjwt",
    "hiredis": "redis",
    "mode-streaming": "faust-streaming",
    "starlette": "fastapi",
    "click": "typer",
    "pydantic-core": "pydantic",
}


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=! ;]", requirement)[0].lower().replace("_", "-")


def locked(lock: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[\S+\])?==([^ ;\\]+)", (ROOT / lock).read_text(), re.MULTILINE))


def distributions_imported_by(*folders: str) -> set[str]:
    modules: set[str] = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    known = packages_distributions()
    foreign = modules - OURS - set(sys.stdlib_module_names)
    return {
        COME_ALONG.get(name, name) for module in foreign for name in (known.get(module, [module])[0].lower().replace("_", "-"),)
    }


@pytest.mark.parametrize("folders", [("agents", "app", "tables"), ("deploy/local",)])
def test_what_runs_is_a_declared_runtime_dependency(folders: tuple[str, ...]) -> None:
    declared = {name_of(requirement) for requirement in project()["dependencies"]}

    assert distributions_imported_by(*folders) <= declared


#: Installed by ``make dialects``, for as long as that takes.
ELSEWHERE = {"arroyo"}


def test_what_tests_benchmarks_and_generators_import_is_declared() -> None:
    extras = project()["optional-dependencies"]["dev"]
    declared = {name_of(requirement) for requirement in [*project()["dependencies"], *extras]}

    assert distributions_imported_by("tests", "bench", "deploy/observability") - ELSEWHERE <= declared


def test_the_locks_hold_every_declared_dependency_and_agree() -> None:
    runtime, everything = locked("requirements.lock"), locked("requirements-dev.lock")
    extras = project()["optional-dependencies"]["dev"]

    assert {name_of(requirement) for requirement in project()["dependencies"]} <= set(runtime)
    assert {name_of(requirement) for requirement in extras} <= set(everything)
    assert runtime.items() <= everything.items()


def test_exact_versions_are_locked_as_declared() -> None:
    exact = {name_of(r): r.split("==")[1] for r in project()["dependencies"] if "==" in r}

    assert exact.keys() == {"faust-streaming", "aiokafka", "rocksdict"}
    assert exact.items() <= locked("requirements.lock").items()


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_every_locked_package_has_hashes_and_no_registry_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"^(?=[a-z0-9-]+(?:\[\S+\])?==)", text, flags=re.MULTILINE)[1:]

    assert len(packages) == len(locked(lock))
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text
    assert "index-url" not in text


def test_every_public_target_is_explained_by_make_help() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(" ".join(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)).split())
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert {"demo", "worker", "test", "lint", "bench", "setup", "clean"} <= targets
    for target in targets:
        assert f"make {target}" in shown, target


@pytest.mark.parametrize("target", ["demo", "test", "bench"])
def test_what_needs_services_sets_the_machine_up_first(target: str) -> None:
    plan = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    assert plan.index("deploy/local/setup.sh") < plan.index(
        "-m " + {"test": "pytest"}.get(target, target if target == "bench" else "deploy")
    )


def test_ci_runs_lint_and_tests() -> None:
    script = (ROOT / ".ci" / "run").read_text()

    assert re.findall(r"^make (\w+)$", script, re.MULTILINE) == ["setup", "lint", "test"]

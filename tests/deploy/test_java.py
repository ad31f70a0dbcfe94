"""Finding Java: the right one is used, a wrong one is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local.java import JavaError, find_java, java_major


@pytest.fixture(autouse=True)
def _forget_what_was_found() -> Iterator[None]:
    find_java.cache_clear()
    yield
    find_java.cache_clear()


@pytest.fixture
def fake_java(tmp_path: Path) -> Callable[[str], Path]:
    """A ``JAVA_HOME`` whose java says it has that version."""

    def make(version: str) -> Path:
        program = tmp_path / "bin" / "java"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-04-15' >&2\n")
        program.chmod(0o755)
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("banner", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_422"', 8),
        ("command not found", 0),
    ],
)
def test_the_major_version_is_read_from_the_banner(banner: str, major: int) -> None:
    assert java_major(banner) == major


def test_java_home_wins_over_the_path(fake_java: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake_java("21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(home))

    assert find_java() == str(home / "bin" / "java")


def test_an_old_java_is_named_with_its_version(fake_java: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake_java("11.0.2")))

    with pytest.raises(JavaError, match=r"needs Java 17 or newer, but .*/bin/java is Java 11: run `make setup`"):
        find_java()


@pytest.mark.parametrize(("home", "where"), [("/nowhere", "JAVA_HOME=/nowhere has no bin/java"), ("", "no java on PATH")])
def test_a_missing_java_says_where_it_was_looked_for(home: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", home)
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(JavaError, match=where):
        find_java()

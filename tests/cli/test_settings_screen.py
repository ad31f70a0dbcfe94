"""`veltrix settings`: everything there is, where it comes from, and no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.settings import Settings


def listed(*arguments: str) -> dict[str, dict[str, Any]]:
    result = CliRunner().invoke(app, ["settings", "--json", *arguments])
    assert result.exit_code == 0, result.output
    return {one["name"]: one for one in json.loads(result.stdout)}


def test_every_setting_is_listed_with_its_default() -> None:
    found = listed()
    assert set(found) == {f"VELTRIX_{name.upper()}" for name in Settings.model_fields}
    assert all(one["value"] == one["default"] for one in found.values())
    assert {one["source"] for one in found.values()} == {"default"}


def test_what_is_set_is_told_apart_by_where_it_comes_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("unit_depth = 4\n")
    (tmp_path / "secret").write_text("hunter2\n")
    variables = {"PROFILE_DIR": tmp_path, "PROFILE": "p", "REDIS_PASSWORD_FILE": tmp_path / "secret", "PARTITIONS": 20}
    for name, value in variables.items():
        monkeypatch.setenv(f"VELTRIX_{name}", str(value))
    found = {name: (one["value"], one["default"], one["source"]) for name, one in listed("--set").items()}
    assert found == {
        "VELTRIX_UNIT_DEPTH": ("4", "3", "profile"),
        "VELTRIX_REDIS_PASSWORD": ("***", "", "file"),
        "VELTRIX_PARTITIONS": ("20", "10", "environment"),
    }


def test_a_word_finds_names_and_descriptions() -> None:
    assert "VELTRIX_WATERMARK_DELAY_MS" in listed("watermark")
    assert list(listed("idempotently")) == []


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("VELTRIX_REDIS_URL", "redis://app:hunter2@cache:6379/0")
    monkeypatch.setenv("VELTRIX_REFERENCE_URL", "postgresql://app:hunter2@db/shop")
    for arguments in ([], ["--json"]):
        result = CliRunner().invoke(app, ["settings", *arguments])
        assert "hunter2" not in result.output
        assert "redis://app:***@cache:6379/0" in result.output


@pytest.mark.parametrize("name", ["VELTRIX_PARTITIONS", "VELTRIX_KAFKA_BROKERS"])
def test_a_wrong_setting_exits_2_and_the_right_names_are_shown_all_the_same(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "many")
    result = CliRunner().invoke(app, ["settings"])
    assert (result.exit_code, name in result.stderr, "these are the defaults" in result.stderr) == (2, True, True)
    assert "VELTRIX_PARTITIONS=10\n" in result.stdout
    assert "VELTRIX_KAFKA_BOOTSTRAP=127.0.0.1:9092\n" in result.stdout

"""Where settings come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.settings import SettingsError, load_settings


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A profile that is chosen, and empty."""
    monkeypatch.setenv("VELTRIX_PROFILE_DIR", str(tmp_path))
    monkeypatch.setenv("VELTRIX_PROFILE", "latency")
    path = tmp_path / "latency.toml"
    path.touch()
    return path


def refusal() -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings()
    return str(refused.value)


def test_the_environment_is_stronger_than_a_file_a_file_than_the_profile_and_that_than_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: Path
) -> None:
    assert load_settings().unit_depth == 3
    profile.write_text("unit_depth = 4\n")
    assert load_settings().unit_depth == 4
    (tmp_path / "depth").write_text("5\n")
    monkeypatch.setenv("VELTRIX_UNIT_DEPTH_FILE", str(tmp_path / "depth"))
    assert load_settings().unit_depth == 5
    monkeypatch.setenv("VELTRIX_UNIT_DEPTH", "6")
    assert load_settings().unit_depth == 6


def test_a_wrong_value_is_named_by_the_variable_that_holds_it_and_all_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_PARTITIONS", "many")
    monkeypatch.setenv("VELTRIX_LOG_LEVEL", "loud")
    assert [line.split(":")[0].strip() for line in refusal().splitlines()[1:]] == ["VELTRIX_PARTITIONS", "VELTRIX_LOG_LEVEL"]


def test_settings_that_do_not_go_together_are_named_by_their_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_LANE_LOW_WATER", "9000")
    assert refusal() == "Wrong settings:\n  VELTRIX_LANE_LOW_WATER must be below VELTRIX_LANE_HIGH_WATER"


def test_a_wrong_secret_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_KAFKA_SASL_PASSWORD", "hunter2")
    monkeypatch.setenv("VELTRIX_PARTITIONS", "hunter2")
    assert "hunter2" not in refusal()


@pytest.mark.parametrize(
    ("name", "meant"), [("PARTITION", "PARTITIONS"), ("KAFKA_BOOTSTRP", "KAFKA_BOOTSTRAP"), ("REDIS", "REDIS_URL")]
)
def test_a_misspelt_name_is_an_error_that_says_which_was_meant(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(f"VELTRIX_{name}", "1")
    assert refusal() == f"Unknown setting VELTRIX_{name}. Did you mean VELTRIX_{meant}?"


@pytest.mark.parametrize("name", ["KAFKA_BROKERS", "UNKNWN", "X"])
def test_where_nothing_is_alike_nothing_is_guessed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"VELTRIX_{name}", "1")
    assert refusal() == f"Unknown setting VELTRIX_{name}. `veltrix settings` lists the names."


def test_a_profile_that_is_not_there_names_those_that_are(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_PROFILE", "throughput")
    assert refusal().endswith("throughput.toml does not exist (known: latency)")


def test_a_profile_with_an_unknown_name_or_no_toml_is_refused(profile: Path) -> None:
    profile.write_text("partition = 4\n")
    assert "VELTRIX_PARTITION: " in refusal()
    profile.write_text("unit_depth =\n")
    assert str(profile) in refusal()


def test_a_secrets_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VELTRIX_REDIS_PASSWORD_FILE", str(tmp_path / "gone"))
    assert refusal() == f"VELTRIX_REDIS_PASSWORD_FILE={tmp_path / 'gone'} cannot be read: No such file or directory"

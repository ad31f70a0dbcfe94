"""``veltrix topics``: what is printed, and the exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import app
from app.kafka_clients import KafkaConnectError
from app.topic_admin import Applied, Problem, TopicAdminError

WRONG = Problem("interactions", "partitions", "partitions", "10", "4")
MISSING = Problem("interactions-enriched", "missing", "missing", "10 partitions", "-")
ALTERED = Problem("dlq.veltrix.interactions", "config", "retention.ms", "2592000000", "1000")


def invoke(monkeypatch: pytest.MonkeyPatch, outcome: Any, *args: str) -> Any:
    """Run ``veltrix topics ...`` with a cluster that gives ``outcome``."""

    async def answer(settings: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr("app.cli.main.check_topics", answer)
    monkeypatch.setattr("app.cli.main.apply_topics", answer)
    return CliRunner().invoke(app, ["topics", *args])


def test_check_of_a_sound_cluster_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, [], "check")

    assert result.exit_code == 0
    assert "interactions-enriched" in result.stdout
    assert "Mend with" not in result.stdout


def test_check_lists_differences_with_the_command_to_mend_them(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, [WRONG, MISSING], "check")

    assert result.exit_code == 1
    assert "missing" in result.stdout
    assert "Mend with: veltrix topics apply" in result.stdout
    assert "Mend with: a migration to new topics" in result.stdout


def test_check_as_json_is_one_object(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, [WRONG], "check", "--json")

    report = json.loads(result.stdout)
    assert (result.exit_code, report["ok"]) == (1, False)
    assert report["problems"][0]["actual"] == "4"
    assert "migration" in report["problems"][0]["fixed_by"]


def test_apply_says_what_it_created_and_altered(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, Applied(("interactions",), (ALTERED,), ()), "apply")

    assert result.exit_code == 0
    assert "created" in result.stdout
    assert "retention.ms 1000 -> 2592000000" in result.stdout


def test_apply_exits_1_for_what_only_a_migration_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, Applied((), (), (WRONG,)), "apply")

    assert result.exit_code == 1
    assert "differs, not changed" in result.stdout
    assert "migration" in result.stdout


def test_apply_as_json_lists_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, Applied(("interactions",), (ALTERED,), (WRONG,)), "apply", "--json")

    report = json.loads(result.stdout)
    assert report["created"] == ["interactions"]
    assert (report["altered"][0]["setting"], report["left"][0]["kind"]) == ("retention.ms", "partitions")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KafkaConnectError("a:1", "nothing listens on a:1"), "Kafka at a:1: nothing listens"),
        (TopicAdminError("topic x was not created: no right"), "no right"),
    ],
)
def test_an_expected_failure_is_one_sentence_on_stderr(monkeypatch: pytest.MonkeyPatch, error: Exception, words: str) -> None:
    result = invoke(monkeypatch, error, "check")

    assert result.exit_code == 1
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_an_unknown_setting_exits_2_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VELTRIX_PARTITION", "4")

    result = CliRunner().invoke(app, ["topics", "check"])

    assert result.exit_code == 2
    assert "Did you mean VELTRIX_PARTITIONS?" in result.stderr

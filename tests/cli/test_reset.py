"""``veltrix reset``: refuses while workers run, shows first, and acts in an order that a crash cannot harm."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import reset
from app.cli.console import CommandError
from app.cli.main import app
from app.cli.redis_tools import RedisUnavailable
from app.cli.reset import DELETABLE, ResetDone, ResetPlan, Rewind
from app.engine.guard import lock_data_dir
from app.settings import Settings

PLAN = ResetPlan((Rewind("interactions", 0, 7, 2, 10), Rewind("interactions", 1, None, 0, 5)), {"cl": 12}, 3)


class FakeAdmin:
    """A cluster whose group has ``members`` and whose changelog has two partitions."""

    def __init__(self, members: int = 0) -> None:
        member = ("id", "client-1", "/10.0.0.7", b"", b"")
        groups = [(0, "veltrix", "Stable" if members else "Empty", "consumer", "", [member] * members)]
        self.client = SimpleNamespace(describe_consumer_groups=self._describe_groups)
        self._groups = groups

    async def _describe_groups(self, groups: list[str]) -> list[Any]:
        return [SimpleNamespace(groups=self._groups)]

    async def partitions(self, topic: str) -> list[int]:
        return [0, 1]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace every step of the reset by a note in the returned list."""
    noted: list[str] = []

    def note(name: str, result: Any = None) -> Any:
        async def step(*args: Any) -> Any:
            noted.append(name)
            return result

        return step

    @asynccontextmanager
    async def open_admin(settings: Settings) -> Any:
        yield FakeAdmin()

    monkeypatch.setattr(reset, "open_admin", open_admin)
    monkeypatch.setattr(reset, "_commit", note("commit"))
    monkeypatch.setattr(reset, "_append_resets", note("append", {("cl", 0): 12}))
    monkeypatch.setattr(reset, "_delete_before", note("delete records"))
    monkeypatch.setattr(reset, "_delete_lookups", note("delete lookups", 3))
    return noted


def make(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path)


async def test_offsets_are_committed_before_any_state_is_forgotten(steps: list[str], tmp_path: Path) -> None:
    done = await reset.carry_out(make(tmp_path), PLAN, lambda line: None)

    assert steps == ["commit", "append", "delete records", "delete lookups"]
    assert (done.committed, done.changelog_partitions, done.redis_keys) == (2, 1, 3)


async def test_a_running_worker_stops_the_reset_before_its_first_step(steps: list[str], tmp_path: Path) -> None:
    with lock_data_dir(tmp_path), pytest.raises(CommandError, match="worker with pid"):
        await reset.carry_out(make(tmp_path), PLAN, lambda line: None)

    assert steps == []


async def test_members_of_the_group_are_named(tmp_path: Path) -> None:
    admin: Any = FakeAdmin(members=2)

    with pytest.raises(CommandError, match=r"2 member\(s\): client-1 on /10\.0\.0\.7") as refusal:
        await reset.refuse_members(admin, make(tmp_path))

    assert "10 s" in str(refusal.value)


async def test_redis_down_at_the_end_says_that_a_repetition_completes_it(
    steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(settings: Settings) -> int | None:
        raise RedisUnavailable("no answer")

    monkeypatch.setattr(reset, "_delete_lookups", down)

    with pytest.raises(CommandError, match="run this command again"):
        await reset.carry_out(make(tmp_path), PLAN, lambda line: None)
    assert steps == ["commit", "append", "delete records"]


def test_settings_to_go_back_to_are_those_from_before() -> None:
    before = {"cleanup.policy": "compact", "max.message.bytes": "9"}

    assert reset._without_our_own(before) == before
    assert reset._without_our_own(before | {"retention.ms": "-1"}) == before | {"retention.ms": "-1"}


def test_what_an_interrupted_reset_left_behind_is_removed() -> None:
    left = {"max.message.bytes": "9", **DELETABLE}

    assert reset._without_our_own(left) == {"max.message.bytes": "9", "cleanup.policy": "compact"}


@pytest.mark.parametrize(
    ("text", "ms"), [("2026-01-31T12:00:00Z", 1_769_860_800_000), ("2026-01-31T13:00:00.5+01:00", 1_769_860_800_500)]
)
def test_a_time_is_rfc_3339(text: str, ms: int) -> None:
    assert reset.parse_time(text) == ms


@pytest.mark.parametrize(("text", "words"), [("yesterday", "no RFC 3339"), ("2026-01-31T12:00:00", "no UTC offset")])
def test_a_time_that_could_be_misread_is_refused(text: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        reset.parse_time(text)


def invoke(monkeypatch: pytest.MonkeyPatch, *args: str) -> tuple[Any, list[int | None]]:
    """Run ``veltrix reset`` with a plan at hand; also gives the times that were acted on."""
    asked: list[int | None] = []
    acted: list[int | None] = []

    async def plan(settings: Settings, to_ms: int | None) -> ResetPlan:
        asked.append(to_ms)
        return PLAN

    async def carry_out(settings: Settings, plan: ResetPlan, say: Any) -> ResetDone:
        acted.extend(asked)
        say("step one")
        return ResetDone("epoch", 2, 10, 3)

    monkeypatch.setattr("app.cli.main.resetting.plan_reset", plan)
    monkeypatch.setattr("app.cli.main.resetting.carry_out", carry_out)
    return CliRunner().invoke(app, ["reset", *args]), acted


def test_without_yes_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    result, acted = invoke(monkeypatch, "--to-earliest")

    assert (result.exit_code, acted) == (0, [])
    assert "Nothing was changed" in result.stdout
    assert "13 records will be processed again" in result.stdout
    assert "up to 12 records" in result.stdout
    assert "3 keys in Redis" in result.stdout


def test_with_yes_every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    result, acted = invoke(monkeypatch, "--to-time", "2026-01-31T12:00:00Z", "--yes")

    assert (result.exit_code, acted) == (0, [1_769_860_800_000])
    assert "step one" in result.stdout


def test_json_is_one_object_for_plan_and_for_deed(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, _ = invoke(monkeypatch, "--to-earliest", "--json")
    done, _ = invoke(monkeypatch, "--to-earliest", "--json", "--yes")

    assert json.loads(plan.stdout)["source"][0] == {
        "topic": "interactions",
        "partition": 0,
        "committed": 7,
        "target": 2,
        "end": 10,
    }
    assert json.loads(done.stdout) == {
        "dry_run": False,
        "epoch": "epoch",
        "committed_partitions": 2,
        "changelog_partitions": 10,
        "redis_keys": 3,
    }


@pytest.mark.parametrize("args", [[], ["--to-earliest", "--to-time", "2026-01-31T12:00:00Z"]])
def test_exactly_one_target_is_needed(monkeypatch: pytest.MonkeyPatch, args: list[str]) -> None:
    result, acted = invoke(monkeypatch, *args, "--yes")

    assert (result.exit_code, acted) == (1, [])
    assert "--to-earliest or --to-time" in result.stderr

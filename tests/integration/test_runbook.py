"""The runbook for dead letters, walked from the alert to the empty queue with the commands that it names, in its order."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli.main import app as cli
from deploy.local.ports import LOOPBACK
from deploy.local.worker_process import ROOT
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker, environment
from tests.integration.test_admin import StartAdmin, admin, no_identity, until

__all__ = ["admin"]

RUNBOOK = ROOT / "docs" / "runbooks" / "dead-letters.md"
#: More than a canary; among so much that is good, too few for the breaker.
BROKEN, RUBBISH, GOOD = 110, 5, 1_500


def commands() -> Iterator[str]:
    """Every ``veltrix dlq`` command of the runbook's examples, without its comment."""
    for line in re.findall(r"^\$ (veltrix dlq .*)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE):
        yield re.sub(r"\s+#\s.*$", "", line)


def test_every_step_of_the_runbook_does_what_it_says(
    topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = topics()
    one, desk = worker(settings), admin(settings)
    sample = truth.clicks(1, "runbook")[0]
    broken = [sample._replace(kind="missing_identity", key=b"42", value=no_identity(f"book-{n}")) for n in range(BROKEN)]
    good = [click for click in truth.clicks(GOOD, "good") if click.kind == "valid"]
    truth.send(
        settings, [*good, *broken, *[sample._replace(kind="truncated_json", key=b"42", value=b"{test")] * RUBBISH], truth.Sent()
    )
    desk.wait_ready()
    until(lambda: len(desk.records()) == BROKEN + RUBBISH, "the letters are not indexed")
    mistake, rubbish = (group["fingerprint"] for group in desk.get("/groups")["groups"])
    letter = desk.records(fingerprint=mistake)[0]["id"]
    monkeypatch.chdir(tmp_path)
    Path("fix.json").write_text(json.dumps([{"op": "add", "path": "/userId", "value": "42"}]))

    def run(command: str) -> Any:
        """As somebody on call types it, with what they see in place of what stands in brackets."""
        jobs = desk.get("/replays")["jobs"]
        seen = {
            "id": letter, "group": rubbish if " discard " in command else mistake, "team": "team-checkout",
            "job": jobs[0]["id"] if jobs else "",
        }  # fmt: skip
        typed = shlex.split(re.sub(r"<(\w+)>", lambda found: seen[found[1]], command))
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("VELTRIX_")}
        env = {**clean, **environment(settings), "VELTRIX_ADMIN_URL": f"http://{LOOPBACK}:{desk.port}"}
        return CliRunner().invoke(cli, typed[1:], env=env)

    done = dict[str, Any]()
    for command in commands():
        if "--patch fix.json" in command:  # as the comment beside `validate` says
            tried = run("veltrix dlq validate --fingerprint <group> --patch fix.json --json")
            assert json.loads(tried.output)["passed"] == BROKEN, tried.output
        done[command] = run(command)

    assert len(done) == 13, "a command was added: see what this test must do about it"
    failed = {command: answer.exit_code for command, answer in done.items() if answer.exit_code}
    assert failed == {
        "veltrix dlq validate <id>": 1,  # it would not pass as it is, and the exit code says so
        "veltrix dlq validate --fingerprint <group>": 1,
        "veltrix dlq job <job> pause": 1,  # it is over by then
    }, {command: answer.output for command, answer in done.items()}
    assert f"{BROKEN} letters" in done['veltrix dlq replay --fingerprint <group> --why "fixed in 1.4.2"'].output
    assert desk.get("/groups")["groups"][0]["owner"] == "team-checkout"
    assert json.loads(run("veltrix dlq groups --json").output) == []
    assert {record["status"] for record in desk.records(fingerprint=mistake)} == {"replayed"}
    assert {record["status"] for record in desk.records(fingerprint=rubbish)} == {"discarded"}
    until(lambda: len(truth.Outcome.of(settings).values) == len(good) + BROKEN, "what was mended did not come out")
    assert truth.ledger(one)["residue"] == 0

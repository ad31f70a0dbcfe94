"""Order per key on a real Kafka: what comes after a failed event of its key waits for it, through a kill, until somebody deals with it."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from app.cli.clickstream import Click
from app.settings import Settings
from app.topics import ENRICHED
from deploy.local.worker_process import WorkerProcess
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.test_admin import StartAdmin, admin, until

__all__ = ["admin"]


def journeys(users: int) -> list[list[Click]]:
    """Valid events of a few users, a list per user, each at least ten."""
    by_key: dict[bytes, list[Click]] = defaultdict(list)
    for click in truth.clicks(3_000, "order", users=20):
        if click.kind == "valid":
            by_key[click.key or b""].append(click)
    return sorted(by_key.values(), key=len)[-users:]


def broken(click: Click) -> Click:
    return Click(kind="truncated_json", key=click.key, value=click.value[:-9])


def held(one: WorkerProcess) -> dict[str, Any]:
    status, body = one.get("/api/v1/held-keys")
    assert status == 200, body
    return dict(json.loads(body))


def came_out(settings: Settings) -> dict[bytes, list[str]]:
    """Ids of the events of each key in the order in which a reader meets them first."""
    found: dict[bytes, list[str]] = defaultdict(list)
    for message in truth.read(settings, ENRICHED):
        message_id = json.loads(message.value() or b"")["messageId"]
        if message_id not in found[message.key() or b""]:
            found[message.key() or b""].append(message_id)
    return found


def ids(journey: list[Click]) -> list[str]:
    return [json.loads(click.value)["messageId"] for click in journey]


@pytest.mark.parametrize("guarantee", ["at_least_once", "exactly_once"])
def test_events_behind_a_failed_one_wait_through_a_kill_until_it_is_mended_or_discarded(
    guarantee: str, topics: MakeTopics, worker: StartWorker, admin: StartAdmin, tmp_path: Path
) -> None:
    settings = topics(key_order=True, retry_delays="1s,2s", redis_url="", processing_guarantee=guarantee)
    mended, dropped, fine = journeys(3)
    sent, one = truth.Sent(), worker(settings, run_dir=tmp_path / "one")
    truth.send(settings, [broken(mended[0]), broken(dropped[0]), *mended[1:], *dropped[1:], *fine], sent)
    truth.wait_consumed([one], len(sent.clicks))
    assert came_out(settings) == {fine[0].key: ids(fine)}
    waiting = {"keys": 2, "waiting": len(mended) + len(dropped) - 2}
    assert held(one).items() >= waiting.items()

    one.kill9()
    one = worker(settings, run_dir=tmp_path / "two")
    until(lambda: held(one).items() >= waiting.items(), "an empty disk has forgotten what waits")
    desk = admin(settings)
    desk.wait_ready()
    until(lambda: len(desk.records()) == 2, "the dead letters are not indexed")
    letters = {letter["key"]: letter for letter in desk.records()}
    assert {key["event"] for key in held(one)["oldest"]} == {letter["dlq_id"] for letter in letters.values()}

    whole = {"reason": "mended", "value_base64": base64.b64encode(mended[0].value).decode()}
    answer = desk.post(f"/records/{letters[(mended[0].key or b'').decode()]['id']}/replay", whole)
    assert answer.status_code == 200, answer.text
    answer = desk.post(f"/records/{letters[(dropped[0].key or b'').decode()]['id']}/discard", {"reason": "nobody needs it"})
    assert answer.status_code == 200, answer.text
    until(lambda: held(one)["keys"] == 0, "keys are held although nothing of them has failed")
    assert came_out(settings) == {fine[0].key: ids(fine), mended[0].key: ids(mended), dropped[0].key: ids(dropped[1:])}
    assert truth.ledger(one)["residue"] == 0
    assert one.terminate() == 0

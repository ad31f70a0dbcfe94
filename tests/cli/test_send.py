"""``veltrix send``: bytes as they are, the key of the event, and a verdict before the worker gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from app.cli import send
from app.cli.console import CommandError
from app.cli.main import app
from app.cli.send import Sent
from app.domain.routing import partition_of
from app.settings import Settings

NOW_MS = 1_700_000_000_000
EVENT: dict[str, Any] = {"type": "page", "userId": "u1", "properties": {"price": 1.10}}


def draft(raw: bytes, key: str | None = "u1", partition: int | None = None) -> Any:
    place = partition_of((key or "").encode(), 10) if partition is None else partition
    return send._Draft(place, None if key is None else key.encode(), raw, NOW_MS)


def test_only_the_line_end_of_the_file_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "event.json"
    path.write_bytes(b'{"a": 1} \r\n')

    assert send.read_event(str(path)) == b'{"a": 1} '


def test_a_missing_or_empty_file_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.touch()

    with pytest.raises(CommandError, match=r"absent\.json: No such file"):
        send.read_event(str(tmp_path / "absent.json"))
    with pytest.raises(CommandError, match=r"empty\.json is empty"):
        send.read_event(str(empty))


def test_fill_adds_what_is_missing_and_keeps_what_is_there() -> None:
    filled = json.loads(send.fill(json.dumps(EVENT).encode(), NOW_MS))

    assert filled["timestamp"] == "2023-11-14T22:13:20.000Z"
    assert filled["messageId"]
    assert {name: filled[name] for name in EVENT} == EVENT
    given_id = json.dumps(EVENT | {"messageId": "m", "timestamp": "t"}).encode()
    assert json.loads(send.fill(given_id, NOW_MS)) == EVENT | {"messageId": "m", "timestamp": "t"}


@pytest.mark.parametrize("raw", [b"[1]", b"nope", b"\xff"])
def test_fill_needs_a_json_object(raw: bytes) -> None:
    with pytest.raises(CommandError, match="JSON object"):
        send.fill(raw, NOW_MS)


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        (b'{"userId":"u","anonymousId":"a"}', "u"),
        (b'{"anonymousId":"a"}', "a"),
        (b'{"userId":"","anonymousId":"a"}', "a"),
        (b'{"userId":7}', None),
        (b"{}", None),
        (b"{", None),
    ],
)
def test_the_key_is_the_user_id_else_the_anonymous_id(raw: bytes, key: str | None) -> None:
    assert send.key_of(raw) == key


@given(st.binary())
def test_any_bytes_have_a_key_or_none(raw: bytes) -> None:
    assert send.key_of(raw) is None or isinstance(send.key_of(raw), str)


def test_the_verdict_is_that_of_the_worker() -> None:
    good = send.fill(json.dumps(EVENT).encode(), NOW_MS)

    assert send.refusal(Settings(), draft(good), 10) is None
    assert str(send.refusal(Settings(), draft(json.dumps(EVENT).encode()), 10)).startswith("missing_message_id")
    assert str(send.refusal(Settings(), draft(good, key="other"), 10)).startswith("key_mismatch")
    assert str(send.refusal(Settings(), draft(good, key=None), 10)).startswith("misrouted")


def test_the_command_says_partition_and_offset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fake(settings: Any, topic: str, raw: bytes, key: str | None) -> Sent:
        return Sent(topic, 3, 17, key, len(raw), "misrouted: no")

    monkeypatch.setattr("app.cli.main.sending.send_event", fake)
    path = tmp_path / "event.json"
    path.write_text("{}")

    shown = CliRunner().invoke(app, ["send", str(path), "--key", "k[1]"])
    as_json = CliRunner().invoke(app, ["send", "-", "--json"], input="{}")

    assert "interactions partition 3 offset 17, key 'k[1]', 2 bytes" in shown.stdout
    assert "dead letter: misrouted" in shown.stdout
    assert json.loads(as_json.stdout)["offset"] == 17


def test_a_missing_file_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["send", "absent.json"])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "absent.json: No such file" in result.stderr

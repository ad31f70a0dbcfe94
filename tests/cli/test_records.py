"""Records on the terminal: nothing a stranger wrote may steer it, and ``--json`` loses nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from app.cli import records


@dataclass
class _Record:
    topic: str = "t"
    partition: int = 0
    offset: int = 5
    key: bytes | None = b"u1"
    value: bytes | None = b'{"a":1}'
    timestamp: int = 1_700_000_000_123
    timestamp_type: int = 0
    headers: Sequence[tuple[str, bytes | None]] = field(default_factory=list)


def shown(record: _Record) -> str:
    out = StringIO()
    records.show(Console(file=out, width=100, color_system=None), record)
    return out.getvalue()


def test_a_record_shows_position_time_key_headers_and_pretty_value() -> None:
    text = shown(_Record(headers=[("dlq.stage", b"decode"), ("none", None)]))

    assert "t[0]@5  2023-11-14T22:13:20.123Z  key u1" in text
    assert "dlq.stage: decode" in text
    assert "none: null" in text
    assert '"a": 1' in text


@given(st.binary(max_size=200), st.binary(max_size=50), st.text(max_size=20))
@settings(deadline=None)
def test_no_bytes_reach_the_terminal_as_control_characters(value: bytes, key: bytes, header: str) -> None:
    text = shown(_Record(value=value, key=key, headers=[(header, value)]))

    assert all(char.isprintable() or char == "\n" for char in text)


def test_markup_in_a_record_is_text() -> None:
    assert "[red]x[/red]" in shown(_Record(value=b"[red]x[/red]", key=b"[bold]"))


def test_a_long_value_is_cut_with_its_size() -> None:
    assert f"... ({10_000} bytes)" in shown(_Record(value=b"x" * 10_000))


def test_what_is_longer_than_a_line_goes_on_in_the_next() -> None:
    url = "https://shop.example/" + "x" * 300
    assert url in "".join(line.strip() for line in shown(_Record(value=json.dumps({"url": url}).encode())).splitlines())


@pytest.mark.parametrize("value", [None, b"", b"\xff\x00", b"[1]", b'"s"', b"plain"])
def test_json_keeps_every_value(value: bytes | None) -> None:
    line = json.loads(json.dumps(records.as_json(_Record(value=value))))

    expected = {
        None: None,
        b"": "",
        b"\xff\x00": {"base64": base64.b64encode(b"\xff\x00").decode()},
        b"[1]": [1],
        b'"s"': "s",
        b"plain": "plain",
    }
    assert line["value"] == expected[value]
    assert (line["timestamp_ms"], line["timestamp_type"], line["key"]) == (1_700_000_000_123, "CreateTime", "u1")


def test_headers_keep_their_order_and_repeats() -> None:
    line = records.as_json(_Record(headers=[("b", b"1"), ("a", None), ("b", b"2")]))

    assert line["headers"] == [["b", "1"], ["a", None], ["b", "2"]]


def test_a_time_outside_the_calendar_is_shown_as_a_number() -> None:
    assert records.rfc3339(10**18) == "1000000000000000000 ms"

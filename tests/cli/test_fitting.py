"""Tables on narrow terminals: a row stays a line, and what matters most stays in it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from app.cli.fitting import show_fitting

ROW = {
    "id": "dlq.veltrix.interactions:3:17",
    "status": "[red]pending[/]",
    "reason": "missing_message_id",
    "size": "552",
    "group": "5257fd9c95dbd9e9",
}
SPARE = ("size", "group", "status")


def shown(*rows: dict[str, str], width: int, spare: tuple[str, ...] = SPARE, text: str = "") -> list[str]:
    screen = io.StringIO()
    show_fitting(Console(file=screen, width=width), rows, spare, text)
    return [line.rstrip() for line in screen.getvalue().splitlines()]


def test_with_room_every_column_is_there() -> None:
    header, line = shown(ROW, width=90)
    assert header.split() == list(ROW)
    assert line.split() == ["dlq.veltrix.interactions:3:17", "pending", "missing_message_id", "552", "5257fd9c95dbd9e9"]


@pytest.mark.parametrize(
    ("width", "left"),
    [
        (82, ["id", "status", "reason", "size", "group"]),
        (81, ["id", "status", "reason", "group"]),
        (60, ["id", "status", "reason"]),
        (50, ["id", "reason"]),
    ],
)
def test_columns_go_in_the_order_that_was_said_and_only_as_many_as_needed(width: int, left: list[str]) -> None:
    header, line = shown(ROW, width=width)
    assert header.split() == left
    assert len(line.split()) == len(left)


def test_free_text_takes_several_lines_and_the_others_one() -> None:
    row = {"group": "5257fd9c95dbd9e9", "message": "neither `userId` nor `anonymousId` is set"}
    lines = shown(row, width=42, spare=(), text="message")
    assert lines[1].startswith("5257fd9c95dbd9e9  neither")
    assert " ".join(" ".join(lines[1:]).split()) == f"{row['group']}  {row['message']}".replace("  ", " ")
    assert len(lines) == 3


def test_no_rows_show_nothing() -> None:
    assert shown(width=80) == []

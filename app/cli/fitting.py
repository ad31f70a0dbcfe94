"""Tables that fit the terminal: what matters least is left out, so that a line stays a line on the 80 columns of a pod's shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from app.cli.console import grid

#: Between two columns.
GAP: Final = 2
#: The least that is kept for a column of free text, which may take several lines.
TEXT_WIDTH: Final = 24


def show_fitting(out: Console, rows: Sequence[Mapping[str, str]], spare: Sequence[str], text: str = "") -> None:
    """Print ``rows``, markup by column, all with the same columns.

    Args:
        spare: columns that may be left out while the table is wider than the terminal, the first one first.
        text: the column of free text, if there is one.
    """
    if not rows:
        return
    widths = {name: max([_width(name), *[_width(row[name]) for row in rows]]) for name in rows[0]}
    if text:
        widths[text] = min(widths[text], TEXT_WIDTH)
    for name in spare:
        if _sum(widths) <= out.width:
            break
        del widths[name]
    table = grid(*widths)
    for column in table.columns:  # where even the rest does not fit, everything is folded: nothing is cut off
        column.no_wrap = column.header != text and _sum(widths) <= out.width
    for row in rows:
        table.add_row(*[row[name] for name in widths])
    out.print(table)


def _sum(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + GAP * (len(widths) - 1)


def _width(markup: str) -> int:
    return Text.from_markup(markup).cell_len

"""One live line while ``veltrix generate`` runs; nothing when stderr is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from app.cli.generate import Progress, Tally


@contextmanager
def progress(console: Console, run_tag: str) -> Iterator[Progress | None]:
    """A callback that shows acknowledged records and their rate, or None."""
    if not console.is_terminal:
        yield None
        return
    with console.status(f"run tag {run_tag}: connecting ...") as status:

        def show(tally: Tally, seconds: float) -> None:
            bad = tally.sent - tally.kinds["valid"] - tally.kinds["duplicate"]
            counts = f"[bold]{tally.sent:,}[/] sent, {tally.kinds['duplicate']:,} duplicates, {bad:,} bad"
            status.update(f"run tag {run_tag}: {counts}, {tally.sent / seconds:,.0f}/s over {seconds:.0f} s")

        yield show

"""How a snapshot looks: a live screen on a terminal, one line elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from deploy.local.demo_metrics import ranges
from deploy.local.demo_watch import Snapshot, WorkerView
from deploy.local.ports import LOOPBACK

PHASE_STYLES = {"running": "green", "unreachable": "red", "stopping": "dim"}


@dataclass(frozen=True, slots=True)
class Screen:
    """What does not change while the demo runs. ``ends``: words for when it stops."""

    rate: float
    ends: str
    urls: Mapping[str, str]
    exports: Sequence[str]
    """shell lines that point the tools at this demo, empty when their defaults do"""

    def render(self, snapshot: Snapshot, status: str = "") -> RenderableType:
        """The whole screen."""
        head = Text.assemble(("Veltrix demo", "bold"), f"   {clock(snapshot.seconds)}   ", (status or self.ends, "dim"))
        columns = Table.grid(expand=True, padding=(0, 1))
        columns.add_column(ratio=1)
        columns.add_column(ratio=1)
        columns.add_row(
            Panel(self._events(snapshot), title="Events", title_align="left"),
            Panel(_speed(snapshot), title="Speed", title_align="left"),
        )
        workers = Panel(_workers(snapshot.workers), title="Workers", title_align="left")
        # The cursor rests on an empty line: a "^C" that the terminal echoes there cannot wrap and shift the screen.
        return Group(head, columns, workers, Panel(self._links(), title="Open", title_align="left"), "")

    def _events(self, snapshot: Snapshot) -> Table:
        counts = snapshot.counts
        table = _grid()
        table.add_row("in", number(counts.consumed), f"[dim]{share(counts.consumed, counts.consumed)}[/]")
        table.add_row("unique, enriched", f"[green]{number(counts.emitted)}[/]", share(counts.emitted, counts.consumed))
        table.add_row("duplicates", number(counts.duplicates), share(counts.duplicates, counts.consumed))
        table.add_row("dead letters", f"[yellow]{number(counts.dead_lettered)}[/]", share(counts.dead_lettered, counts.consumed))
        for reason, count in snapshot.dead_letters.items():
            table.add_row(f"[dim]  {reason}[/]", f"[dim]{number(count)}[/]", "")
        lost = "[green]0[/]" if counts.residue == 0 else f"[bold red]{number(counts.residue)}[/]"
        table.add_row("without an outcome", lost, "")
        return table

    def _links(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, url in self.urls.items():
            table.add_row(f"[dim]{name}[/]", f"[link={url}]{url}[/]" if url.startswith("http") else f"[bold]{url}[/]")
        for line in self.exports:
            table.add_row("[dim]in that shell first[/]", f"[bold]{line}[/]")
        return table


def plain(snapshot: Snapshot) -> str:
    """One line for logs and pipes."""
    counts = snapshot.counts
    owners = " ".join(f"{view.ref.name}={ranges(view.reading.partitions) or view.reading.phase}" for view in snapshot.workers)
    return (
        f"{clock(snapshot.seconds)} {snapshot.events_per_second:,.0f} events/s: {counts.consumed:,} in, {counts.emitted:,} unique, "
        f"{counts.duplicates:,} duplicates, {counts.dead_lettered:,} dead letters, p50 {ms(snapshot.recent_p50_ms)}, "
        f"p99 {ms(snapshot.recent_p99_ms)}, lag {snapshot.lag:,}, at most {snapshot.state_keys:,} keys, {owners}"
    )


def on_terminal(console: Console) -> bool:
    """Whether a screen can be redrawn there."""
    return console.is_terminal and not console.is_dumb_terminal


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def number(value: int) -> str:
    return f"{value:,}"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else ""


def ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms"


def redis_state(views: Sequence[WorkerView]) -> str:
    """The worst state of any partition, with its colour."""
    lanes: Counter[str] = Counter()
    for view in views:
        lanes.update(view.reading.redis_lanes)
    for state, words in (
        ("down", "[red]down[/]"),
        ("rebuilding", "[yellow]rebuilding[/]"),
        ("catching_up", "[yellow]catching up[/]"),
    ):
        if lanes[state]:
            return f"{words} {lanes[state]}/{lanes.total()}"
    return f"[green]live[/] {lanes['live']}/{lanes.total()}" if lanes else "[dim]off[/]"


def waiting(views: Sequence[WorkerView], view: str) -> int:
    """Keys of a view that wait for event time to close them."""
    return sum(one.reading.waiting.get(view, 0) for one in views)


def reference_hits(views: Sequence[WorkerView]) -> tuple[float, int, int]:
    """Share of reference rows that the processes had themselves, queries to the database, rows given."""
    answers: Counter[str] = Counter()
    for view in views:
        answers.update(view.reading.answers)
    keys = answers.total()
    return (answers["process"] / keys if keys else 0.0), sum(view.reading.queries for view in views), keys


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    return table


def _speed(snapshot: Snapshot) -> Table:
    table = _grid()
    table.add_row("events per second", f"[bold]{snapshot.events_per_second:,.0f}[/]", "last 5 s")
    table.add_row("end to end, median", ms(snapshot.recent_p50_ms), f"all {ms(snapshot.p50_ms)}")
    table.add_row("end to end, 99 %", ms(snapshot.recent_p99_ms), f"all {ms(snapshot.p99_ms)}")
    table.add_row("lag", number(snapshot.lag), "records")
    table.add_row("RocksDB", number(snapshot.state_keys), "keys at most")
    table.add_row("Redis lookups", redis_state(snapshot.workers), "")
    table.add_row("sessions", number(waiting(snapshot.workers, "user_sessions")), "open")
    table.add_row("trending", ", ".join(snapshot.trending) or "[dim]when the first windows close[/]", "")
    hits, queries, keys = reference_hits(snapshot.workers)
    if keys:
        table.add_row("reference data", f"{hits:.1%}", f"from memory; {queries:,} queries for {keys:,} rows")
    return table


def _workers(views: Sequence[WorkerView]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("worker", "phase", "partitions", "events", "sidecar"):
        table.add_column(name, justify="right" if name == "events" else "left")
    for view in views:
        reading = view.reading
        phase = Text(reading.phase, style=PHASE_STYLES.get(reading.phase, "yellow"))
        owned = f"{ranges(reading.partitions)} ({len(reading.partitions)})" if reading.partitions else "none"
        table.add_row(view.ref.name, phase, owned, number(reading.consumed), f"http://{LOOPBACK}:{view.ref.port}")
    return table

"""How ``veltrix dlq`` looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from app.cli.console import grid

Row = Mapping[str, Any]


def show_queues(out: Console, queues: Sequence[Row]) -> None:
    """One line a queue."""
    table = grid("queue", "open", "in Kafka", "per minute", "oldest pending", "first expires", "largest groups")
    for queue in queues:
        rate = queue["per_minute"]
        table.add_row(
            queue["name"], _text(queue["open"]), str(queue["count"]), "-" if rate is None else f"{rate:.1f}",
            _time(queue["oldest_pending_at"]), _time(queue["oldest_expires_at"]), " ".join(queue["top_fingerprints"] or []),
        )  # fmt: skip
    out.print(table)


def show_records(out: Console, records: Sequence[Row]) -> None:
    """One line a letter."""
    if not records:
        out.print("No dead letter matches.")
        return
    table = grid("id", "status", "failed at", "stage", "reason", "key", "size", "replays", "group")
    for record in records:
        table.add_row(
            record["id"], _status(record["status"]), _time(record["failed_at"]), _text(record["stage"]), _text(record["reason"]),
            _text(record["key"]), _text(record["value_size"]), str(record["replay_count"]), _text(record["fingerprint"]),
        )  # fmt: skip
    out.print(table)


def line_of(record: Row) -> str:
    """One letter as one line of text."""
    told = (record["failed_at"], record["id"], f"{record['stage']}/{record['reason']}", record["key"], record["message"])
    return "  ".join("-" if part is None else str(part) for part in told)


def show_groups(out: Console, groups: Sequence[Row]) -> None:
    """One line a group, its message below."""
    if not groups:
        out.print("No failure group has such letters.")
        return
    table = grid("group", "pending", "all", "stage", "reason", "last", "since", "first version", "owner", "note or message")
    for group in groups:
        table.add_row(
            group["fingerprint"], str(group["counts"].get("pending", 0)), str(group["count"]), _text(group["stage"]),
            _text(group["exception_class"] or group["reason"]), _time(group["last_failed_at"]), _time(group["first_failed_at"]),
            _text(group["first_version"]), _text(group["owner"]), _text(group["note"] or group["message"]),
        )  # fmt: skip
    out.print(table)


#: Characters of a value that are shown; `--json` has all.
SHOWN_CHARACTERS: Final = 3000


def show_record(out: Console, record: Row, state: Row) -> None:
    """Everything, the value last."""
    source = record["source"]
    facts = {
        "id": record["id"],
        "status": f"{state['status']}" + (f", by {state['by']} at {state['at']}" if state["by"] else ""),
        "note": state["note"],
        "failed": f"{record['failed_at']} in {record['stage']}: {record['reason']}",
        "message": record["message"],
        "exception": record["exception_class"],
        "came from": f"{source['topic']}:{source['partition']}:{source['offset']} of {source['timestamp']}",
        "key": record["key"],
        "group": record["fingerprint"],
        "attempts": f"{record['delivery_count']}, replayed {record['replay_count']} times",
        "parked by": f"{record['app']} {record['app_version']} on {record['host']}",
    }
    for name, value in facts.items():
        if value is not None:
            out.print(f"[dim]{name:>10}[/]  {escape(str(value))}", soft_wrap=True)
    if record["stacktrace"]:
        out.print(escape(record["stacktrace"]), style="dim")
    _show_value(out, record["value"])


def show_verdict(out: Console, found: Row) -> None:
    """What would become of one letter, or of many."""
    if "checked" in found:
        out.print(f"{found['passed']} of {found['checked']} would pass")
        for failure, count in sorted(found["failed"].items(), key=lambda pair: -pair[1]):
            out.print(f"[red]{count:>8}[/]  {escape(failure)}")
    elif found["passes"]:
        out.print("[green]passes[/]")
    else:
        out.print(f"[red]fails[/] {found['stage']} {found['reason']}: {escape(found['message'])}")
    _show_results(out, found["results"])


def _show_results(out: Console, results: Sequence[Row]) -> None:
    """What a replay now would do to results that were published; nothing when it would do nothing."""
    for one in results:
        if one["revised"]:
            out.print(f"[yellow]{one['revised']:>8}[/]  closed {one['result']} are published again, corrected{_span(one)}")
        if one["left_out"]:
            out.print(f"[red]{one['left_out']:>8}[/]  closed {one['result']} stay as they are, without it{_span(one)}")


def _span(result: Row) -> str:
    return f" [dim](between {_time(result['first'])} and {_time(result['last'])})[/]"


def show_state(out: Console, state: Row) -> None:
    """What was done about one letter."""
    out.print(f"{state['id']}  {_status(state['status'])}  by {escape(state['by'])} at {_time(state['at'])}")


def show_audit(out: Console, events: Iterable[Row]) -> None:
    """One line a deed."""
    table = grid("at", "who", "did", "to", "result", "why")
    for event in events:
        names = ("who", "action", "subject", "result", "reason")
        table.add_row(_time(event.get("at")), *(_text(event.get(name)) for name in names))
    out.print(table)


def show_jobs(out: Console, jobs: Iterable[Row]) -> None:
    """One line a job."""
    table = grid("job", "state", "matched", "sent", "passed", "failed again", "skipped", "exhausted", "discarded", "by", "note")
    for job in jobs:
        table.add_row(
            job["id"], job["state"], *(str(job[name]) for name in ("matched", "sent", "succeeded", "failed_again", "skipped")),
            str(job["exhausted"]), str(job["discarded"]), escape(job["by"]), _text(job["note"] or job["reason"]),
        )  # fmt: skip
    out.print(table)


def _show_value(out: Console, value: Row | None) -> None:
    if value is None:
        out.print("[dim]no value[/]")
    elif value["text"] is not None:
        text = value["text"]
        if len(text) > SHOWN_CHARACTERS:
            out.print(f"[dim]the first {SHOWN_CHARACTERS} of {len(text)} characters (all: --json)[/]")
        kind = "json" if value["parsed"] is not None else "text"
        out.print(Syntax(text[:SHOWN_CHARACTERS], kind, word_wrap=True, background_color="default"))
    else:
        out.print(f"{value['size']} bytes, no text; base64:\n{value['base64']}", soft_wrap=True)


def _status(status: str | None) -> str:
    colour = {"pending": "yellow", "exhausted": "red", "replayed": "green", "discarded": "dim"}.get(status or "", "default")
    return f"[{colour}]{status or '-'}[/]"


def _time(text: str | None) -> str:
    return "-" if text is None else text.replace("T", " ").removesuffix("Z")[:19]


def _text(value: object) -> str:
    return "-" if value is None else escape(str(value))

"""How ``veltrix dlq`` looks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax

from app.cli.fitting import show_fitting
from app.cli.records import printable

Row = Mapping[str, Any]


def show_queues(out: Console, queues: Sequence[Row]) -> None:
    """One line a queue."""
    rows = [
        {
            "queue": queue["name"],
            "open": _text(queue["open"]),
            "in Kafka": str(queue["count"]),
            "per minute": "-" if queue["per_minute"] is None else f"{queue['per_minute']:.1f}",
            "oldest pending": _time(queue["oldest_pending_at"]),
            "first expires": _time(queue["oldest_expires_at"]),
            "largest groups": " ".join(queue["top_fingerprints"] or []),
        }
        for queue in queues
    ]
    show_fitting(out, rows, ("largest groups", "per minute", "in Kafka"), text="largest groups")


def show_records(out: Console, records: Sequence[Row]) -> None:
    """One line a letter."""
    if not records:
        out.print("No dead letter matches.")
        return
    rows = [
        {
            "id": record["id"],
            "status": _status(record["status"]),
            "failed at": _time(record["failed_at"]),
            "stage": _text(record["stage"]),
            "reason": _text(record["reason"]),
            "key": _text(record["key"]),
            "size": _text(record["value_size"]),
            "replays": str(record["replay_count"]),
            "group": _text(record["fingerprint"]),
        }
        for record in records
    ]
    show_fitting(out, rows, ("replays", "size", "stage", "group", "status", "key"))


def line_of(record: Row) -> str:
    """One letter as one line of text."""
    told = (record["failed_at"], record["id"], f"{record['stage']}/{record['reason']}", record["key"], record["message"])
    return "  ".join(_plain(part) for part in told)


def show_groups(out: Console, groups: Sequence[Row]) -> None:
    """One line a group, what is known of it last."""
    if not groups:
        out.print("No failure group has such letters.")
        return
    rows = [
        {
            "group": group["fingerprint"],
            "pending": str(group["counts"].get("pending", 0)),
            "all": str(group["count"]),
            "stage": _text(group["stage"]),
            "reason": _text(group["exception_class"] or group["reason"]),
            "last": _time(group["last_failed_at"]),
            "since": _time(group["first_failed_at"]),
            "first version": _text(group["first_version"]),
            "owner": _text(group["owner"]),
            "note or message": _text(group["note"] or group["message"]),
        }
        for group in groups
    ]
    show_fitting(out, rows, ("stage", "all", "owner", "first version", "since", "last"), text="note or message")


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
            out.print(f"[dim]{name:>10}[/]  {_text(value)}", soft_wrap=True)
    if record["stacktrace"]:
        out.print(escape(printable(record["stacktrace"])), style="dim")
    _show_value(out, record["value"])


def show_verdict(out: Console, found: Row) -> None:
    """What would become of one letter, or of many."""
    if "checked" in found:
        out.print(f"{found['passed']} of {found['checked']} would pass")
        for failure, count in sorted(found["failed"].items(), key=lambda pair: -pair[1]):
            out.print(f"[red]{count:>8}[/]  {_text(failure)}")
    elif found["passes"]:
        out.print("[green]passes[/]")
    else:
        out.print(f"[red]fails[/] {found['stage']} {found['reason']}: {_text(found['message'])}")
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
    out.print(f"{state['id']}  {_status(state['status'])}  by {_text(state['by'])} at {_time(state['at'])}")


def show_audit(out: Console, events: Iterable[Row]) -> None:
    """One line a deed."""
    names = {"who": "who", "did": "action", "to": "subject", "result": "result", "why": "reason"}
    rows = [
        {"at": _date_time(event.get("at"))} | {shown: _text(event.get(name)) for shown, name in names.items()} for event in events
    ]
    if not rows:
        out.print("Nothing was done yet.")
    show_fitting(out, rows, ("result", "why"), text="why")


def show_jobs(out: Console, jobs: Iterable[Row]) -> None:
    """One line a job."""
    names = {"matched": "matched", "sent": "sent", "passed": "succeeded", "failed again": "failed_again"}
    names |= {name: name for name in ("skipped", "exhausted", "discarded")}
    rows = [
        {"job": job["id"], "state": job["state"]}
        | {shown: str(job[name]) for shown, name in names.items()}
        | {"by": _text(job["by"]), "note": _text(job["note"] or job["reason"])}
        for job in jobs
    ]
    if not rows:
        out.print("No job was started yet.")
    show_fitting(out, rows, ("by", "discarded", "exhausted", "skipped", "sent", "matched"), text="note")


def _show_value(out: Console, value: Row | None) -> None:
    if value is None:
        out.print("[dim]no value[/]")
    elif value["text"] is None:
        out.print(f"{value['size']} bytes, no text; base64:\n{value['base64']}", soft_wrap=True)
    elif value["parsed"] is None:
        _show_text(out, value["text"], "text")
    else:
        out.print("[dim]JSON, laid out (the bytes as they are: --json)[/]")
        _show_text(out, json.dumps(value["parsed"], indent=2, ensure_ascii=False), "json")


def _show_text(out: Console, text: str, kind: str) -> None:
    if len(text) > SHOWN_CHARACTERS:
        out.print(f"[dim]the first {SHOWN_CHARACTERS} of {len(text)} characters (all: --json)[/]")
    out.print(Syntax(printable(text[:SHOWN_CHARACTERS]), kind, word_wrap=True, background_color="default"))


def _status(status: str | None) -> str:
    colour = {"pending": "yellow", "exhausted": "red", "replayed": "green", "discarded": "dim"}.get(status or "", "default")
    return f"[{colour}]{status or '-'}[/]"


def _time(text: str | None) -> str:
    """Without its year: no letter is kept for as long."""
    return "-" if text is None else _date_time(text)[5:]


def _date_time(text: str | None) -> str:
    return "-" if text is None else text.replace("T", " ").removesuffix("Z")[:19]


def _text(value: object) -> str:
    """As text, whatever markup it holds."""
    return escape(_plain(value))


def _plain(value: object) -> str:
    """In one line, and without what could steer the terminal: much of it was written by strangers."""
    return "-" if value is None else printable(str(value)).replace("\n", "\\n")

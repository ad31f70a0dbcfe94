"""``veltrix dlq``: dead letters for people at a terminal; everything it does is a call to ``veltrix admin``.

What changes many letters only says what it would do, until ``--yes``.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from app.cli import console, dlq_screen
from app.cli.dlq_client import AdminClient, admin_client
from app.dead_letters.roles import BadTokensFile, new_token

app = typer.Typer(help="Dead letters: look, try, send again, discard. Needs a running `veltrix admin`.", no_args_is_help=True)

#: How often a running job is looked at, seconds.
LOOK_S: Final = 0.5

Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", help="Act. Without it only what would happen is shown.")]
Queue = Annotated[str | None, typer.Option(help="Dead letter topic; the one of `interactions` when left out.")]
Status = Annotated[str | None, typer.Option(help="pending, replayed, discarded, exhausted.")]
Stage = Annotated[str | None, typer.Option(help="decode, validate, dedupe, enrich, aggregate, publish.")]
Reason = Annotated[str | None, typer.Option(help="Named reason, such as missing_message_id.")]
Fingerprint = Annotated[str | None, typer.Option(help="Failure group (see `veltrix dlq groups`).")]
Key = Annotated[str | None, typer.Option(help="Key of the record.")]
Version = Annotated[str | None, typer.Option(help="Version of the application that parked it.")]
After = Annotated[str | None, typer.Option(help="Failed at or after this RFC 3339 time.")]
Before = Annotated[str | None, typer.Option(help="Failed before this RFC 3339 time.")]
Words = Annotated[str | None, typer.Option("--q", help="Words to look for; `word*` finds what begins with it.")]
Why = Annotated[str, typer.Option("--why", help="Written to the audit.")]
Ident = Annotated[str, typer.Argument(help="<topic>:<partition>:<offset>, as `veltrix dlq ls` shows it.")]


@app.command()
def queues(as_json: Json = False) -> None:
    """Every queue: what is to be done, how old it is, when Kafka forgets it."""
    with _asking() as admin:
        found = admin.get("/queues")["queues"]
    console.print_json(found) if as_json else dlq_screen.show_queues(console.stdout(), found)


@app.command()
def ls(
    queue: Queue = None, status: Status = None, stage: Stage = None, reason: Reason = None, fingerprint: Fingerprint = None,
    key: Key = None, version: Version = None, after: After = None, before: Before = None, q: Words = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 20, as_json: Json = False,
) -> None:  # fmt: skip
    """The newest dead letters that match."""
    query = _filters(status=status, stage=stage, reason=reason, fingerprint=fingerprint, key=key, version=version,
                     failed_after=after, failed_before=before, q=q)  # fmt: skip
    with _asking() as admin:
        found = list(admin.pages(limit, queue=queue, **query))
    console.print_json(found) if as_json else dlq_screen.show_records(console.stdout(), found)


@app.command()
def tail(
    queue: Queue = None, status: Status = None, stage: Stage = None, reason: Reason = None, fingerprint: Fingerprint = None,
    key: Key = None, version: Version = None, q: Words = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None, as_json: Json = False,
) -> None:  # fmt: skip
    """Dead letters that match, as they come. Ctrl-C ends it."""
    query = _filters(status=status, stage=stage, reason=reason, fingerprint=fingerprint, key=key, version=version, q=q)
    with _asking() as admin:
        for found in islice(admin.watch(queue=queue, **query), limit):
            line = json.dumps(found) if as_json else dlq_screen.line_of(found)
            console.stdout().print(line, markup=False, highlight=False, soft_wrap=True)


@app.command()
def groups(queue: Queue = None, status: Status = "pending", as_json: Json = False) -> None:
    """Kinds of failure, the largest first: 40,000 letters are three bugs."""
    with _asking() as admin:
        found = admin.get("/groups", queue=queue, status=status or None)["groups"]
    console.print_json(found) if as_json else dlq_screen.show_groups(console.stdout(), found)


@app.command()
def note(
    fingerprint: Annotated[str, typer.Argument(help="Failure group.")],
    text: Annotated[str | None, typer.Option("--note", help="What is known about it.")] = None,
    owner: Annotated[str | None, typer.Option(help="Whose it is.")] = None,
    muted_until: Annotated[str | None, typer.Option(help="RFC 3339; nobody needs to hear of it before.")] = None,
    queue: Queue = None,
) -> None:
    """Write down what is known about a failure group."""
    body = _filters(note=text, owner=owner, muted_until=muted_until)
    with _asking() as admin:
        if not body:
            raise console.CommandError("give --note, --owner or --muted-until")
        found = admin.patch(f"/groups/{fingerprint}", body, queue=queue)
    dlq_screen.show_groups(console.stdout(), [found])


@app.command()
def show(ident: Ident, as_json: Json = False) -> None:
    """One letter with everything it holds, and what was done about it."""
    with _asking() as admin:
        found = admin.get(f"/records/{ident}")
        state = admin.get(f"/records/{ident}/state")
    console.print_json(found | {"state": state}) if as_json else dlq_screen.show_record(console.stdout(), found, state)


@app.command()
def validate(
    ident: Annotated[str | None, typer.Argument(help="One letter; or --fingerprint for a group.")] = None,
    value: Annotated[Path | None, typer.Option(help="One letter: file with other bytes to try.")] = None,
    fingerprint: Fingerprint = None,
    patch: Annotated[Path | None, typer.Option(help="A group: file with a JSON Patch to try.")] = None,
    queue: Queue = None,
    as_json: Json = False,
) -> None:
    """Would it pass now? Exit code 1 if not. Nothing is written."""
    with _asking() as admin:
        if ident is not None:
            found = admin.post(f"/records/{ident}/validate", _value(value))
        elif fingerprint is not None:
            found = _try_group(admin, fingerprint, queue, _patch(patch))
        else:
            raise console.CommandError("name a letter, or a group with --fingerprint")
    console.print_json(found) if as_json else dlq_screen.show_verdict(console.stdout(), found)
    if not (found["passes"] if ident is not None else found["passed"] == found["checked"]):
        raise typer.Exit(1)


@app.command()
def replay(
    why: Why, ident: Annotated[str | None, typer.Argument(help="One letter; without it all that match.")] = None,
    queue: Queue = None, status: Status = None, stage: Stage = None, reason: Reason = None, fingerprint: Fingerprint = None,
    key: Key = None, version: Version = None, after: After = None, before: Before = None, q: Words = None,
    value: Annotated[Path | None, typer.Option(help="One letter: file with the bytes to send in place of its own.")] = None,
    patch: Annotated[Path | None, typer.Option(help="Many: file with a JSON Patch (RFC 6902) for each.")] = None,
    rate: Annotated[float, typer.Option(min=0.1, help="Letters per second.")] = 10.0,
    canary: Annotated[int, typer.Option(min=0, help="Send so many first, the others if they pass.")] = 100,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Also what was replayed before, or too often.")] = False,
    yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Send letters again, to where they came from."""
    with _asking() as admin:
        if ident is not None:
            done = admin.post(f"/records/{ident}/replay", {"reason": why, "force": force} | _value(value))
            console.print_json(done) if as_json else dlq_screen.show_state(console.stdout(), done)
            return
        filters = _filters(status=status, stage=stage, reason=reason, fingerprint=fingerprint, key=key, version=version,
                           failed_after=after, failed_before=before, q=q)  # fmt: skip
        body = {"queue": queue, "filter": filters, "reason": why, "rate_per_second": rate, "canary": {"size": canary},
                "max_records": limit, "force": force, "patch": _patch(patch)}  # fmt: skip
        _job(admin, "/replays", body, yes=yes, as_json=as_json)


@app.command()
def discard(
    why: Why, ident: Annotated[str | None, typer.Argument(help="One letter; without it all that match.")] = None,
    queue: Queue = None, status: Status = None, stage: Stage = None, reason: Reason = None, fingerprint: Fingerprint = None,
    key: Key = None, version: Version = None, after: After = None, before: Before = None, q: Words = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.")] = None, yes: Yes = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Nobody needs them: out of the list of what is to be done. They stay in Kafka until retention takes them."""
    with _asking() as admin:
        if ident is not None:
            done = admin.post(f"/records/{ident}/discard", {"reason": why})
            console.print_json(done) if as_json else dlq_screen.show_state(console.stdout(), done)
            return
        filters = _filters(status=status, stage=stage, reason=reason, fingerprint=fingerprint, key=key, version=version,
                           failed_after=after, failed_before=before, q=q)  # fmt: skip
        _job(admin, "/discards", {"queue": queue, "filter": filters, "reason": why, "max_records": limit}, yes=yes, as_json=as_json)


@app.command()
def jobs(as_json: Json = False) -> None:
    """Replays and discards, newest first."""
    with _asking() as admin:
        found = admin.get("/replays")["jobs"]
    console.print_json(found) if as_json else dlq_screen.show_jobs(console.stdout(), found)


@app.command()
def job(
    ident: Annotated[str, typer.Argument(help="Id of the job.")],
    order: Annotated[str | None, typer.Argument(help="pause, resume or cancel; without it the job is followed.")] = None,
    as_json: Json = False,
) -> None:
    """Follow a job, or pause, resume, cancel it."""
    with _asking() as admin:
        if order is None:
            _follow(admin, ident, as_json=as_json)
            return
        if order not in ("pause", "resume", "cancel"):
            raise console.CommandError("pause, resume or cancel")
        dlq_screen.show_jobs(console.stdout(), [admin.post(f"/replays/{ident}/{order}")])


@app.command()
def export(
    queue: Queue = None, status: Status = None, stage: Stage = None, reason: Reason = None, fingerprint: Fingerprint = None,
    key: Key = None, version: Version = None, after: After = None, before: Before = None, q: Words = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1_000_000,
) -> None:  # fmt: skip
    """Whole letters as NDJSON on stdout, one a line, newest first."""
    query = _filters(status=status, stage=stage, reason=reason, fingerprint=fingerprint, key=key, version=version,
                     failed_after=after, failed_before=before, q=q)  # fmt: skip
    with _asking() as admin:
        for line in admin.export(limit, queue=queue, **query):
            typer.echo(line)


@app.command()
def audit(
    limit: Annotated[int, typer.Option(min=1, max=500, help="At most so many of the newest.")] = 20, as_json: Json = False
) -> None:
    """Who did what."""
    with _asking() as admin:
        found = admin.get("/audit", limit=limit)["events"]
    console.print_json(found) if as_json else dlq_screen.show_audit(console.stdout(), found)


@app.command()
def token(
    name: Annotated[str, typer.Option(help="Whose it is; written to the audit.")],
    role: Annotated[str, typer.Option(help="viewer, payload-reader, operator or admin; several with commas.")] = "viewer",
) -> None:
    """Make a token for `veltrix admin`: it is shown once, its line goes into VELTRIX_ADMIN_TOKENS_FILE."""
    with console.reporting():
        try:
            made, line = new_token(name, role)
        except BadTokensFile as exc:
            raise console.CommandError(str(exc)) from exc
    console.stderr().print("Into VELTRIX_ADMIN_TOKENS_FILE:")
    typer.echo(line)
    console.stderr().print("For its owner, as VELTRIX_ADMIN_TOKEN or `Authorization: Bearer ...`; it cannot be shown again:")
    console.stderr().print(made, soft_wrap=True)


# -- parts --------------------------------------------------------------------------------------------


@contextmanager
def _asking() -> Iterator[AdminClient]:
    settings = console.settings()
    with console.reporting(), admin_client(settings) as admin:
        behind = admin.behind()
        if behind is not None:
            console.stderr().print(f"[yellow]not everything is shown[/] {behind}", soft_wrap=True)
        yield admin


def _filters(**given: str | None) -> dict[str, str]:
    return {name: value for name, value in given.items() if value is not None}


def _value(path: Path | None) -> dict[str, str]:
    return {} if path is None else {"value_base64": base64.b64encode(_read(path)).decode()}


def _patch(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(_read(path))
    except ValueError as exc:
        raise console.CommandError(f"{path} is not JSON: {exc}") from exc


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise console.CommandError(f"{path} cannot be read: {exc.strerror}") from exc


def _try_group(admin: AdminClient, fingerprint: str, queue: str | None, patch: Any) -> dict[str, Any]:
    where = f"?queue={queue}" if queue is not None else ""
    found: dict[str, Any] = admin.post(f"/groups/{fingerprint}/validate{where}", {"patch": patch})
    return found


def _job(admin: AdminClient, path: str, body: dict[str, Any], *, yes: bool, as_json: bool) -> None:
    if not yes:
        plan = admin.post(path, body | {"dry_run": True})
        out = console.stdout()
        if not as_json:
            out.print(f"{plan['matched']} letters of {plan['queue']} would be {'replayed' if path == '/replays' else 'discarded'}.")
            if path == "/replays" and "fingerprint" in body["filter"]:
                tried = _try_group(admin, body["filter"]["fingerprint"], body["queue"], body["patch"])
                out.print(f"Of the newest {tried['checked']} of this group {tried['passed']} would pass now.")
        console.show_dry_run(out, plan, as_json=as_json)
        return
    _follow(admin, admin.post(path, body)["id"], as_json=as_json)


def _follow(admin: AdminClient, ident: str, *, as_json: bool) -> None:
    """A bar until the job ends or pauses; Ctrl-C leaves it running."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.stderr(), transient=True) as progress:
        bar = progress.add_task(ident)
        while True:
            found = admin.get(f"/replays/{ident}")
            done = found["sent"] + found["skipped"] + found["exhausted"] + found["discarded"]
            progress.update(bar, total=found["matched"], completed=done)
            if found["state"] != "RUNNING":
                break
            time.sleep(LOOK_S)
    console.print_json(found) if as_json else dlq_screen.show_jobs(console.stdout(), [found])
    if found["state"] in ("PAUSED", "FAILED"):
        raise typer.Exit(1)

"""The ``veltrix`` command: thin; each command's work is in its own module."""

from __future__ import annotations

import os
import secrets
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer

from app.cli import console, dlq, generate_screen, records, reset_screen, settings_screen, topics
from app.cli import doctor as examining
from app.cli import drain as draining
from app.cli import reset as resetting
from app.cli import seed as seeding
from app.cli import send as sending
from app.cli import tail as tailing
from app.cli.clickstream import Clickstream
from app.cli.generate import Plan
from app.cli.generate import generate as send_clicks
from app.engine.api import Record
from app.topic_admin import apply_topics, check_topics
from app.topics import INTERACTIONS

app = typer.Typer(
    name="veltrix", help="Tools around a Veltrix worker (started with `faust -A app.main worker`).", no_args_is_help=True
)
topics_app = typer.Typer(help="The Kafka topics this deployment needs.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(dlq.app, name="dlq")

Json = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]


@topics_app.command("apply")
def topics_apply(as_json: Json = False) -> None:
    """Create what is missing, correct settings that differ. Exit code 1 if something is left that needs a migration."""
    settings = console.settings()
    applied = console.run(apply_topics(settings))
    if as_json:
        console.print_json(topics.applied_json(applied))
    else:
        topics.show_applied(console.stdout(), settings, applied)
    if applied.left:
        raise typer.Exit(1)


@topics_app.command("check")
def topics_check(as_json: Json = False) -> None:
    """Compare, change nothing. Exit code 1 if anything differs."""
    settings = console.settings()
    problems = console.run(check_topics(settings))
    if as_json:
        console.print_json(topics.checked_json(problems))
    else:
        topics.show_checked(console.stdout(), settings, problems)
    if problems:
        raise typer.Exit(1)


@app.command()
def generate(
    rate: Annotated[float, typer.Option(min=0, help="Records per second; 0: as fast as the broker takes them.")] = 1000,
    duration: Annotated[float, typer.Option(min=0, help="Seconds.")] = 30,
    count: Annotated[int | None, typer.Option(min=1, help="Number of records, instead of a duration.")] = None,
    users: Annotated[int, typer.Option(min=1, help="Visitors, Zipf-distributed; about 20 % anonymous.")] = 20_000,
    items: Annotated[int, typer.Option(min=1, help="Products, Zipf-distributed.")] = 2_000,
    seed: Annotated[int, typer.Option(help="The same seed and run tag give the same events.")] = 1,
    run_tag: Annotated[
        str, typer.Option(help="First part of every messageId. Empty: a new one, so that nothing is a duplicate of an older run.")
    ] = "",
    seed_reference: Annotated[
        bool, typer.Option("--seed-reference", help="Only fill the reference tables for these users and items; send nothing.")
    ] = False,
) -> None:
    """Send realistic clickstream traffic to the source topic. The last line of stdout is a JSON summary.

    About 1 % duplicates and 0.5 % bad events of several kinds. Ctrl-C stops cleanly, after a flush.
    """
    settings = console.settings()
    if seed_reference:
        console.print_json(console.run(seeding.seed(settings, users, items)))
        return
    tag = run_tag or secrets.token_hex(4)
    with console.reporting():
        plan = Plan.of(rate, duration, count)
    with generate_screen.progress(console.stderr(), tag) as progress:
        result = console.run(send_clicks(settings, Clickstream(seed, users, items, tag), plan, progress))
    console.print_json(result)


@app.command()
def send(
    file: Annotated[str, typer.Argument(help="A file with one event as JSON; - reads stdin.")],
    key: Annotated[str | None, typer.Option(help="Key of the record; without it userId, else anonymousId.")] = None,
    fill: Annotated[bool, typer.Option("--fill", help="Add messageId and timestamp where they are missing.")] = False,
    topic: Annotated[str, typer.Option(help="Another topic than the source.")] = INTERACTIONS,
    as_json: Json = False,
) -> None:
    """Send one event and say where it went. The bytes are sent as they are, also when they are wrong."""
    settings = console.settings()
    with console.reporting():
        raw = sending.read_event(file)
        raw = sending.fill(raw, time.time_ns() // 1_000_000) if fill else raw
    sent = console.run(sending.send_event(settings, topic, raw, key))
    if as_json:
        console.print_json(asdict(sent))
        return
    out = console.stdout()
    out.print(
        f"[bold]{sent.topic}[/] partition [bold]{sent.partition}[/] offset [bold]{sent.offset}[/], key {sent.key!r}, {sent.bytes} bytes",
        soft_wrap=True,
    )
    if sent.refusal and topic == INTERACTIONS:
        out.print(f"[yellow]it will become a dead letter:[/] {sent.refusal}", soft_wrap=True)


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="Any topic, also dlq.veltrix.interactions.")],
    count: Annotated[
        int | None, typer.Option("-n", min=1, max=10_000, help="Stop after this many: the last ones there are.")
    ] = None,
    from_beginning: Annotated[bool, typer.Option("--from-beginning", help="Start with the oldest record.")] = False,
    as_json: Json = False,
) -> None:
    """Show records: key, headers, value. Without -n the last 10, then new ones until Ctrl-C."""
    settings, out = console.settings(), console.stdout()

    def show(record: Record) -> None:
        if as_json:
            console.print_json(records.as_json(record))
        else:
            records.show(out, record)

    console.run(tailing.tail(settings, topic, show, count=count, from_beginning=from_beginning), interrupted=0)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check broker, topics, routing, Redis, clocks, disk, limits and ports, and say what to do. Exit code 1 if a check fails."""
    settings = console.settings()
    checks = console.run(examining.examine(settings))
    if as_json:
        console.print_json(examining.as_json(checks))
    else:
        examining.show(console.stdout(), checks)
    if not examining.is_sound(checks):
        raise typer.Exit(1)


@app.command("settings")
def show_settings(
    word: Annotated[str, typer.Argument(help="Only those with this in their name or description.")] = "",
    is_set: Annotated[bool, typer.Option("--set", help="Only those that the environment, a file or the profile sets.")] = False,
    as_json: Json = False,
) -> None:
    """Every setting: its value here, its default, what it is. Exit code 2, after the defaults, if one is unknown or wrong. No secrets."""
    known, wrong = settings_screen.read()
    found = settings_screen.matching(settings_screen.settings_of(known), word, is_set=is_set)
    if as_json:
        console.print_json(settings_screen.as_json(found))
    else:
        settings_screen.show(console.stdout(), found)
    if wrong is not None:
        console.fail(f"{wrong}\nSo these are the defaults.", code=2)


@app.command()
def serve() -> None:
    """Answer hot lookups over HTTP, from Redis, beside the workers (VELTRIX_SERVE_PORT). Run as many as needed; SIGTERM stops one."""
    console.settings()
    # What the agents declare is beyond the reach of this package: the process becomes the one that knows it.
    os.execv(sys.executable, [sys.executable, "-m", "app.serve"])  # noqa: S606


@app.command()
def admin() -> None:
    """Dead letters over HTTP, with search, groups and replay, from an index of its own (VELTRIX_ADMIN_PORT). SIGTERM stops it."""
    console.settings()
    os.execv(sys.executable, [sys.executable, "-m", "app.admin"])  # noqa: S606


@app.command()
def reset(
    to_earliest: Annotated[bool, typer.Option("--to-earliest", help="Read the source again from its oldest record.")] = False,
    to_time: Annotated[str | None, typer.Option(help="... from the first record at or after this RFC 3339 time.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Act. Without it only what would happen is shown.")] = False,
    as_json: Json = False,
) -> None:
    """Forget all state, changelogs and lookups, and process the source again. All workers must be stopped."""
    settings, out = console.settings(), console.stdout()
    with console.reporting():
        if to_earliest == (to_time is not None):
            raise console.CommandError("give either --to-earliest or --to-time")
        to_ms = None if to_time is None else resetting.parse_time(to_time)
    plan = console.run(resetting.plan_reset(settings, to_ms))
    if not as_json:
        reset_screen.show(out, plan, settings.app_id)
    if not yes:
        console.show_dry_run(out, reset_screen.plan_json(plan), as_json=as_json)
        return
    done = console.run(
        resetting.carry_out(settings, plan, lambda line: None if as_json else out.print(f"[green]done[/]  {line}", soft_wrap=True))
    )
    if as_json:
        console.print_json({"dry_run": False} | resetting.done_json(done))


@app.command()
def drain(
    instance: Annotated[str, typer.Option("--instance", help="Its group_instance_id. Empty: the one of the settings.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Even while its worker runs; that one then exits with status 70.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Act. Without it only what would happen is shown.")] = False,
    as_json: Json = False,
) -> None:
    """Take a static member out of the group (scale-down), so that the others get its partitions at once. Stop its worker first."""
    settings, out = console.settings(), console.stdout()
    plan = console.run(draining.plan_drain(settings, instance))
    if not as_json:
        draining.show(out, plan, settings.app_id)
    if not yes:
        console.show_dry_run(out, draining.plan_json(plan), as_json=as_json)
        return
    done = console.run(draining.carry_out(settings, plan, force=force))
    if as_json:
        console.print_json({"dry_run": False} | draining.plan_json(plan) | asdict(done))
    else:
        out.print(f"[green]done[/]  {draining.done_line(done)}", soft_wrap=True)


if __name__ == "__main__":
    app()

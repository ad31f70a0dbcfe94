"""The ``veltrix`` command: thin; each command's work is in its own module."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from app.cli import console, generate_screen, topics
from app.cli.clickstream import Clickstream
from app.cli.generate import Plan
from app.cli.generate import generate as send_clicks
from app.topic_admin import apply_topics, check_topics

app = typer.Typer(name="veltrix", help="Tools around a Veltrix worker (started with `faust -A app.main worker`).", no_args_is_help=True)
topics_app = typer.Typer(help="The Kafka topics this deployment needs.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")

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
    run_tag: Annotated[str, typer.Option(help="First part of every messageId. Empty: a new one, so that nothing is a duplicate of an older run.")] = "",
) -> None:
    """Send realistic clickstream traffic to the source topic. The last line of stdout is a JSON summary.

    About 1 % duplicates and 0.5 % bad events of several kinds. Ctrl-C stops cleanly, after a flush.
    """
    settings = console.settings()
    tag = run_tag or secrets.token_hex(4)
    with generate_screen.progress(console.stderr(), tag) as progress:
        stream = Clickstream(seed, users, items, tag)
        result = console.run(send_clicks(settings, stream, Plan.of(rate, duration, count), progress))
    console.print_json(result)


if __name__ == "__main__":
    app()

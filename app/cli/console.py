"""How every command talks: results on stdout, everything else on stderr, one sentence for an expected failure."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeVar

import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.table import Table

from app.cli.redis_tools import RedisUnavailable
from app.kafka_clients import KafkaConnectError
from app.settings import Settings, SettingsError, load_settings
from app.topic_admin import TopicAdminError, UnknownTopicError

T = TypeVar("T")
PIPE_WIDTH: Final = 160


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do. Exit code 1."""


EXPECTED = (CommandError, RedisUnavailable, KafkaConnectError, TopicAdminError, UnknownTopicError)


def stdout() -> Console:
    """Made per call: tests and pipes exchange ``sys.stdout``."""
    return _console(Console(highlight=False))


def stderr() -> Console:
    return _console(Console(stderr=True, highlight=False))


@contextmanager
def reporting(interrupted: int = 130) -> Iterator[None]:
    """Expected failures become one sentence and exit code 1 (2 for a wrong setting), Ctrl-C exit code ``interrupted``."""
    _quiet_libraries()
    try:
        yield
    except SettingsError as exc:
        fail(str(exc), code=2)
    except EXPECTED as exc:
        fail(str(exc))
    except KafkaError as exc:
        fail(f"Kafka: {exc!r}")
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


def run(work: Coroutine[Any, Any, T], interrupted: int = 130) -> T:
    """Run one command's work, ``reporting`` its failures."""
    with reporting(interrupted):
        return asyncio.run(work)
    raise AssertionError("reporting() never swallows")


def settings() -> Settings:
    """The configuration of this process; a wrong one ends the command with exit code 2."""
    with reporting():
        return load_settings()
    raise AssertionError("reporting() never swallows")


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command with one message."""
    stderr().print(f"[bold red]error[/] {_escape(message)}", soft_wrap=True)
    raise typer.Exit(code)


def print_json(value: Any) -> None:
    """One JSON object on one line of stdout, for programs."""
    typer.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def show_dry_run(out: Console, plan: dict[str, Any], *, as_json: bool) -> None:
    """A command that acts only with ``--yes`` was called without it; people have seen the plan by now."""
    if as_json:
        print_json({"dry_run": True} | plan)
    else:
        out.print("\nNothing was changed. Add [bold]--yes[/] to do it.")


def grid(*columns: str, title: str | None = None) -> Table:
    """The look of every table."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0)
    )
    for index, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=index == 0)
    return table


def _console(console: Console) -> Console:
    # A pipe has no width; rich would take 80 and fold every table into a log file.
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console


def _escape(text: str) -> str:
    return text.replace("[", "\\[")


def _quiet_libraries() -> None:
    # Each tool reports a failure itself, in one sentence; aiokafka would log the same several times, without advice.
    for name in ("aiokafka", "kafka", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

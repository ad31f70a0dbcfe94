"""``make demo``: everything up, realistic traffic, a live summary, a clean stop, one JSON object as the last line.

Run as ``python -m deploy.local.demo``. On Docker Compose when an engine answers, else natively.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from deploy.local.demo_docker import DockerStack, docker_answers
from deploy.local.demo_run import Demo, DemoError, Options
from deploy.local.demo_stack import AT_LEAST_ONCE, EXACTLY_ONCE, NativeStack, Stack
from deploy.local.demo_state import FOLDER, DemoFiles
from deploy.local.java import JavaError
from deploy.local.kafka import KafkaError
from deploy.local.ports import NoFreePortError, PortTakenError
from deploy.local.process import ProcessError
from deploy.local.redis import RedisNotInstalledError
from deploy.local.stop_signal import stop_on_signals
from deploy.local.worker_process import ENV_PREFIX

EXPECTED = (DemoError, ProcessError, KafkaError, JavaError, RedisNotInstalledError, NoFreePortError, PortTakenError)


def options_of(arguments: Sequence[str]) -> Options:
    """Parse the command line; a wrong one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.demo", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=1000, help="events per second (default 1000)")
    parser.add_argument("--duration", type=float, default=0, help="seconds; 0 (default): until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="for data and logs (default var/demo); emptied at the start")
    parser.add_argument("--guarantee", choices=(AT_LEAST_ONCE, EXACTLY_ONCE), default=AT_LEAST_ONCE, help="of the worker")
    parser.add_argument("--native", action="store_true", help="do not use Docker although an engine answers")
    given = parser.parse_args(arguments)
    if given.rate <= 0 or given.duration < 0:
        parser.error("--rate must be above 0, and --duration not below 0")
    return Options(given.rate, given.duration, given.folder, given.native, given.guarantee)


def foreign_settings(own: Mapping[str, str]) -> list[str]:
    """``VELTRIX_*`` variables of the shell that the demo neither takes over nor sets to the same."""
    return sorted(name for name, value in os.environ.items() if name.startswith(ENV_PREFIX) and own.get(name) != value)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 after a clean run, 1 when a part failed."""
    options, console = options_of(arguments), Console()
    files = DemoFiles(options.folder)
    try:
        with stop_on_signals() as stop:
            if (running := files.read()) is not None:
                raise DemoError(
                    f"a demo is running already (pid {running.pid}): stop it with Ctrl-C, or add a worker to it: make worker N=2"
                )
            use_docker = not options.is_native and docker_answers()
            kind = DockerStack if use_docker else NativeStack
            stack: Stack = kind(files.folder, stop.is_set, options.guarantee)
            if left_out := foreign_settings(stack.env()):
                print(f"demo: these settings of your shell are left out: {', '.join(left_out)}", file=sys.stderr)
            answer = Demo(options, stack, files, stop, console).run()
    except EXPECTED as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted twice, everything was killed", file=sys.stderr)
        return 130
    if answer is not None:
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

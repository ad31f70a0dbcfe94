"""``python -m bench``: run cases, print one JSON line each, compare with the last saved run."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console

from bench.cases.drain import Drain, run_drain
from bench.cases.flood import run_flood
from bench.cases.hot_user import run_hot_user
from bench.cases.latency import Latency, run_latency
from bench.cases.recovery import run_recovery
from bench.cases.watching import run_watching
from bench.compare import compare, goal_table, table
from bench.host import Host, describe_host, load
from bench.result import CaseResult, now_text, to_line
from bench.result import load as load_results
from bench.result import save as save_results
from bench.run import FULL, QUICK, Run
from bench.services import local_services

RESULTS = Path(__file__).with_name("results") / "latest.jsonl"
LOG_WIDTH = 132  # of the tables where there is no terminal to ask
SUBJECTS = ("worker", "hand")

#: In this order: recovery restores what the first drain left behind.
CASES: dict[str, Callable[[Run], CaseResult]] = {
    "drain-4p": lambda run: run_drain(run, Drain("drain-4p", 4, redis=False)),
    "recovery": run_recovery,
    "drain-4p-redis": lambda run: run_drain(run, Drain("drain-4p-redis", 4, redis=True, hand_first=True)),
    "drain-10p": lambda run: run_drain(run, Drain("drain-10p", 10, redis=False, wide=True)),
    "latency-1000": lambda run: run_latency(run, Latency("latency-1000", 1000, goals=True)),
    "latency-5000": lambda run: run_latency(run, Latency("latency-5000", 5000)),
    "latency-hot": lambda run: run_latency(run, Latency("latency-hot", 1000, hot=True, goals=True)),
    "hot-user": run_hot_user,
    "drain-eos": lambda run: run_drain(run, Drain("drain-eos", 4, redis=False, rival="eos")),
    "latency-eos": lambda run: run_latency(run, Latency("latency-eos", 1000, alone="eos")),
    "watching": run_watching,
    "flood": run_flood,
    "drain-whole": lambda run: run_drain(run, Drain("drain-whole", 4, redis=False, rival="whole")),
    "latency-whole": lambda run: run_latency(run, Latency("latency-whole", 1000, alone="whole")),
}
#: Left out of a quick run unless named.
SLOW = ("drain-10p", "latency-5000", "flood")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 when a case failed or gave wrong results; missed goals are shown and do not fail."""
    options = _parser().parse_args(arguments)
    # Progress and tables go to stderr, so that stdout is the results and nothing else.
    console, host = Console(stderr=True, width=None if sys.stderr.isatty() else LOG_WIDTH), describe_host()
    console.print(
        f"{host.cpu}, {host.cores} cores, load {host.load}, Kafka {host.versions['kafka']}, Python {host.versions['python']}"
    )
    if host.load > host.cores / 2:
        console.print("[yellow]This machine is busy: read ratios, not absolute numbers.[/]")
    chosen = [name for name in CASES if _is_chosen(name, options)]
    sizes = QUICK if options.quick else FULL
    results = []
    with local_services(options.keep) as services:
        run = Run(services, sizes, options.subject or SUBJECTS, lambda text: console.print(f"[dim]{text}[/]"), options.repeat)
        run.warm_broker()
        for name in chosen:
            results.append(_measure(run, name, host))
            print(to_line(results[-1]), flush=True)
    _show(console, results)
    if options.save:
        save_results(RESULTS, results)
    return 1 if any(result.failures for result in results) else 0


def _measure(run: Run, name: str, host: Host) -> CaseResult:
    before, started = load(), time.monotonic()
    try:
        result = CASES[name](run)
    except Exception as exc:  # noqa: BLE001  one broken case must not cost the others; the result and the exit status say it
        traceback.print_exc(file=sys.stderr)
        result = CaseResult(case=name, parameters={}, subjects={}, failures=[f"{type(exc).__name__}: {exc}"])
    seconds = round(time.monotonic() - started, 1)
    return msgspec.structs.replace(result, host=host, at=now_text(), load_before=before, load_after=load(), seconds=seconds)


def _show(console: Console, results: Sequence[CaseResult]) -> None:
    console.print(table(compare(results, load_results(RESULTS))))
    console.print(goal_table(results))
    for result in results:
        for text in result.failures:
            console.print(f"[red]FAILED[/] {result.case}: {text}", highlight=False)
        for text in result.void:
            console.print(f"[yellow]VOID[/] {result.case}: {text}; run it again on a quieter machine", highlight=False)


def _is_chosen(name: str, options: argparse.Namespace) -> bool:
    if options.case:
        # "--case drain" means all cases that begin so, "--case drain-4p" only that one.
        return any(name == wanted or (wanted not in CASES and name.startswith(f"{wanted}-")) for wanted in options.case)
    return not (options.quick and name in SLOW)


def _new_folder(text: str) -> Path:
    """State of other topics than those of this run would be refused by the workers, for good reason."""
    folder = Path(text)
    if folder.exists() and any(folder.iterdir()):
        raise argparse.ArgumentTypeError(f"{folder} holds something already: name a new folder")
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Veltrix beside a hand-written loop; docs/benchmarks.md is the method."
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, 2-3 minutes: a check, not a measurement")
    parser.add_argument(
        "--case", action="append", metavar="NAME", help=f"only these: {', '.join(CASES)}, or a first part as drain, latency"
    )
    parser.add_argument("--subject", action="append", choices=SUBJECTS, help="only this one; ratios need both")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="drain N times in ABBA order and take medians")
    parser.add_argument("--save", action="store_true", help="replace these cases in bench/results/latest.jsonl")
    parser.add_argument("--keep", type=_new_folder, metavar="DIR", help="use this new folder for all data and logs, and leave it")
    return parser

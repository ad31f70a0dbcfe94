"""Latency at a fixed rate: open loop, raw floor, worker and hand-written loop in turns within one run.

All subjects are up all the time; the load visits one after another. The floor is the same load sent to a plain topic
and read by the same reader: everything that Kafka, the clients and the machine take before anybody works.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import msgspec

from app.cli.clickstream import Click
from app.topics import INTERACTIONS
from bench import reader
from bench.events import clean_clicks, only_partition, templates, write_events
from bench.handloop import SOURCE as HAND_SOURCE
from bench.histogram import Percentiles, encode, histogram_of, merge, summarise
from bench.load import SLOT, SendPlan, SendReport
from bench.procfs import cpu_seconds
from bench.reader import ReadOrder, ReadReport
from bench.result import CaseResult, Goal, Numbers, Parameters, at_most, ratios
from bench.run import EVENT_AGE_MS, Run, now_ms, running
from bench.schedule import NANOSECOND, Share, Slice, interleave, plan_seconds
from bench.services import ROOT, Subject
from deploy.local.process import Command, ManagedProcess, tail

FLOOR = "bench-floor"
PARTITIONS = 10
TEMPLATES = 20_000
GAP_S = 0.5
LEAD_S = 4.0  # until the sender has loaded its templates and connected
TAIL_S = 15.0  # how long the reader waits for the last events
MAX_LATENESS_MS = 10.0
LOW_LATENCY = {"transaction_groups": "1", "transaction_interval_ms": "20"}
#: p50 and p99 that a worker alone may be above the floor, ms.
MARGINS = {"eos": (50.0, 120.0), "whole": (20.0, 32.0)}
T = TypeVar("T")


class ToolError(Exception):
    """Sender or reader failed: no measurement."""

    def __init__(self, name: str, log: Path) -> None:
        super().__init__(f"{name} failed. Last lines of {log}:\n{tail(log)}")


@dataclass(frozen=True, slots=True)
class Latency:
    """A latency case; ``hot`` sends everything to one partition."""

    name: str
    rate: float
    hot: bool = False
    goals: bool = False
    alone: str = ""
    """This kind of worker (``bench.run.WORKERS``) and nothing else; ``eos`` with one transaction group and 20 ms"""


def run_latency(run: Run, case: Latency) -> CaseResult:
    """Measure one rate."""
    run.empty_source(PARTITIONS)
    run.services.kafka.recreate([run.source_topic(FLOOR, PARTITIONS)])
    _write_templates(run, case.hot)
    with ExitStack() as stack:
        names = (case.alone,) if case.alone else run.subjects
        extra = LOW_LATENCY if case.alone == "eos" else {}
        subjects = {name: run.make(name, PARTITIONS, redis=True, source=_source(name), extra=extra) for name in names}
        for subject in subjects.values():
            stack.enter_context(running(subject))
        for subject in subjects.values():
            subject.wait_ready()
        seconds = dict.fromkeys(names, run.sizes.worker_s) | {"hand": run.sizes.hand_s}
        shares = [Share(FLOOR, run.sizes.floor_s), *(Share(_source(name), seconds[name]) for name in subjects)]
        plan = interleave(shares, case.rate, run.sizes.rounds, run.sizes.warmup_s, GAP_S)
        run.say(f"{case.name}: {plan_seconds(plan):.0f} s")
        measured = _measure(run, subjects, plan)
    parameters: Parameters = {
        "rate": case.rate,
        "partitions": PARTITIONS,
        "hot": case.hot,
        "redis": True,
        "worker_seconds": run.sizes.worker_s,
    }
    return _result(case, parameters, subjects, plan, measured)


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw material of a latency case: arrivals per topic, CPU seconds of each subject in its own slices."""

    start_ns: int
    sent: SendReport
    read: ReadReport
    arrivals: Mapping[str, list[tuple[int, int]]]
    cpu: Mapping[str, float]


def _measure(run: Run, subjects: Mapping[str, Subject], plan: Sequence[Slice]) -> Measured:
    folder = run.services.folder
    outputs = [FLOOR, *(subject.output for subject in subjects.values())]
    start_ns = time.monotonic_ns() + int(LEAD_S * NANOSECOND)
    end_ns = start_ns + int(plan_seconds(plan) * NANOSECOND)
    expected = {FLOOR: 0} | {subject.output: 0 for subject in subjects.values()}
    target_of = {FLOOR: FLOOR} | {_source(name): subject.output for name, subject in subjects.items()}
    for part in plan:
        expected[target_of[part.target]] += int(part.rate * part.seconds)
    ready = folder / "reader.ready"
    ready.unlink(missing_ok=True)
    starts = {topic: run.services.kafka.end_offsets(topic) for topic in outputs}
    order = ReadOrder(run.kafka_bootstrap, starts, expected, end_ns + int(TAIL_S * NANOSECOND), str(folder), str(ready))
    listener, sender = (
        _tool(folder, "reader", order),
        _tool(folder, "load", SendPlan(run.kafka_bootstrap, str(folder / "templates.bin"), start_ns, list(plan))),
    )
    try:
        listener.start()
        listener.wait_until(ready.exists, LEAD_S)
        sender.start()
        cpu = _follow(subjects, plan, start_ns)
        sent = _finish(sender, folder, "load", SendReport)
        read = _finish(listener, folder, "reader", ReadReport)
    finally:
        sender.kill()
        listener.kill()
    arrivals = {topic: reader.load(folder / f"{topic}.bin") for topic in outputs}
    return Measured(start_ns, sent, read, arrivals, cpu)


def _follow(subjects: Mapping[str, Subject], plan: Sequence[Slice], start_ns: int) -> dict[str, float]:
    """CPU seconds that each subject used in its own measured slices, the silence after each included."""
    used = dict.fromkeys(subjects, 0.0)
    for part in plan:
        name = next((name for name in subjects if _source(name) == part.target), None)
        if name is None or part.warmup:
            continue
        _sleep_until(start_ns, part.offset_s)
        before = cpu_seconds(subjects[name].pid)
        _sleep_until(start_ns, part.offset_s + part.seconds + GAP_S)
        used[name] += cpu_seconds(subjects[name].pid) - before
        subjects[name].check()
    return used


def latencies(plan: Sequence[Slice], start_ns: int, target: str, arrivals: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Latencies in us of each measured slice of one target, by intended send time: warm-up is left out by time."""
    for part in plan:
        if part.target == target and not part.warmup:
            begin = start_ns + int(part.offset_s * NANOSECOND)
            end = begin + int(part.seconds * NANOSECOND)
            yield [(read - intended) // 1000 for intended, read in arrivals if begin <= intended < end]


def _result(
    case: Latency, parameters: Parameters, subjects: Mapping[str, Subject], plan: Sequence[Slice], got: Measured
) -> CaseResult:
    numbers: dict[str, Numbers] = {}
    encoded: dict[str, str] = {}
    failures: list[str] = []
    topics = {"floor": (FLOOR, FLOOR)} | {name: (_source(name), subject.output) for name, subject in subjects.items()}
    for name, (target, topic) in topics.items():
        total = merge(histogram_of(part) for part in latencies(plan, got.start_ns, target, got.arrivals[topic]))
        numbers[name] = _numbers(summarise(total))
        encoded[name] = encode(total)
        sent = sum(count for part, count in zip(plan, got.sent.sent, strict=True) if part.target == target)
        if got.read.events[topic] != sent:
            failures.append(f"{name}: {got.read.events[topic]} of {sent} events became readable")
        if name in got.cpu:
            numbers[name]["cpu_ms_per_event"] = round(got.cpu[name] * 1000 / numbers[name]["samples"], 4)
    late = got.sent.lateness
    numbers["generator"] = {"lateness_p99_ms": late.p99_ms, "lateness_max_ms": late.max_ms, "cpu_seconds": got.sent.cpu_seconds}
    void = [f"the generator was late: p99 {late.p99_ms} ms"] if late.p99_ms > MAX_LATENESS_MS else []
    goals = _goals_alone(numbers, case.alone) if case.alone else _goals(numbers) if case.goals else []
    return CaseResult(
        case=case.name,
        parameters=parameters,
        subjects=numbers,
        ratio=ratios(numbers),
        goals=goals,
        failures=failures,
        void=void,
        histograms=encoded,
    )


def _numbers(found: Percentiles) -> Numbers:
    return {name: value for name, value in msgspec.structs.asdict(found).items() if value is not None}


def _goals(numbers: Mapping[str, Numbers]) -> list[Goal]:
    worker, floor, hand = numbers.get("worker", {}), numbers["floor"], numbers.get("hand", {})
    goals = []
    for percentile, margin in (("p50_ms", 8.0), ("p99_ms", 20.0)):
        measured = worker.get(percentile)
        goals.append(at_most(f"worker {percentile}, floor + {margin:g} ms:", measured, round(floor[percentile] + margin, 2)))
        if hand:
            goals.append(at_most(f"worker {percentile}, the hand-written loop's:", measured, hand[percentile]))
    return goals


def _goals_alone(numbers: Mapping[str, Numbers], name: str) -> list[Goal]:
    found, floor = numbers[name], numbers["floor"]
    return [
        at_most(f"{name} {percentile}, floor + {margin:g} ms:", found[percentile], round(floor[percentile] + margin, 2))
        for percentile, margin in zip(("p50_ms", "p99_ms"), MARGINS[name], strict=True)
    ]


def _write_templates(run: Run, hot: bool) -> None:
    """Distinct valid events without their ids; for the hot case only those of partition 0."""
    stream: Iterator[Click] = clean_clicks(10**9, now_ms() - EVENT_AGE_MS)
    if hot:
        stream = only_partition(stream, 0, PARTITIONS)
    write_events(run.services.folder / "templates.bin", islice(templates(stream, SLOT), TEMPLATES))


def _source(name: str) -> str:
    """Worker and hand-written loop run side by side, so the latter has a source topic of its own."""
    return HAND_SOURCE if name == "hand" else INTERACTIONS


def _tool(folder: Path, module: str, order: msgspec.Struct) -> ManagedProcess:
    path = folder / f"{module}.json"
    path.write_bytes(msgspec.json.encode(order))
    out = folder / f"{module}.out"
    out.write_bytes(b"")
    return ManagedProcess(
        Command(module, [sys.executable, "-m", f"bench.{module}", str(path)], folder / f"{module}.log", cwd=ROOT, stdout=out)
    )


def _finish(tool: ManagedProcess, folder: Path, module: str, kind: type[T]) -> T:
    if tool.wait(TAIL_S * 2) != 0:
        raise ToolError(module, folder / f"{module}.log")
    return msgspec.json.decode((folder / f"{module}.out").read_bytes(), type=kind)


def _sleep_until(start_ns: int, offset_s: float) -> None:
    time.sleep(max(0.0, (start_ns - time.monotonic_ns()) / NANOSECOND + offset_s))

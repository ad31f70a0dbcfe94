"""Drain: a full source topic, one process, until everything is published and committed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from app.topics import INTERACTIONS, ITEM_ACTIVITY
from bench.events import Expected
from bench.kafka import GroupOffsets
from bench.procfs import Cost, cpu_seconds
from bench.result import CaseResult, Goal, Numbers, Parameters, at_least, at_most, ratios
from bench.run import Run, running
from bench.services import Subject
from bench.verify import Outcome, defects, disagreement, read_outcome

SAMPLE_S = 0.1
STALL_S = 60.0
SHORTEST_S = 1.5  # samples are 0.1 s apart and a commit may come 0.3 s late
#: Redis may be written after the commit: wait until the process is this idle (cores), at most this long.
IDLE_CORES, IDLE_WINDOW_S, SETTLE_S = 0.15, 0.4, 15.0


class StalledError(Exception):
    """A subject published nothing for a minute although its source is full."""

    def __init__(self, name: str, published: int, expected: int) -> None:
        super().__init__(f"{name} stands still at {published} of {expected} events for {STALL_S:g} s")


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain case."""

    name: str
    partitions: int
    redis: bool
    wide: bool = False
    hand_first: bool = False
    rival: str = ""
    """Another kind of worker (``bench.run.WORKERS``) beside the plain one, instead of the hand-written loop"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a draining subject. ``at`` is monotonic seconds, CPU in seconds since its start."""

    at: float
    published: int
    cpu: float
    broker_cpu: float


def run_drain(run: Run, case: Drain) -> CaseResult:
    """Drain the same records by each subject in turn and compare what they published."""
    events = run.sizes.wide_events if case.wide else run.sizes.drain_events
    expected = run.fill_source(events, case.partitions)
    subjects = ("worker", case.rival) if case.rival else run.subjects
    tries: dict[str, list[Numbers]] = {name: [] for name in subjects}
    outcomes: dict[str, Outcome] = {}
    failures: list[str] = []
    order = sorted(subjects, key=lambda name: (name == "hand") != case.hand_first)
    for number in range(run.repeat):
        for name in order if number % 2 == 0 else reversed(order):
            run.say(f"{case.name}: {name}")
            found, outcomes[name], wrong = _one(run, case, name, expected)
            tries[name].append(found)
            failures += wrong + disagreement(outcomes)
    numbers = {name: medians(found) for name, found in tries.items()}
    parameters: Parameters = {"events": events, "partitions": case.partitions, "redis": case.redis}
    return CaseResult(
        case=case.name,
        parameters=parameters | {"bytes_per_event": expected.value_bytes // events, "repeats": run.repeat},
        subjects=numbers,
        ratio=ratios(numbers, case.rival, "worker") if case.rival else ratios(numbers),
        goals=_rival_goals(numbers, case.rival) if case.rival else _goals(numbers, case.redis),
        failures=failures,
        void=too_short(numbers),
    )


def _one(run: Run, case: Drain, name: str, expected: Expected) -> tuple[Numbers, Outcome, list[str]]:
    """One drain by one subject: its numbers, what it published, what was wrong with that."""
    subject = run.make(name, case.partitions, case.redis)
    with running(subject):
        numbers = drain(run, subject, expected)
        failures = _redis_defects(run, name, expected) if case.redis else []
    outcome = read_outcome(run.services.kafka, subject.output, subject.dead_letters)
    numbers["changelog_records"] = run.services.kafka.count(subject.changelog)
    if not case.redis and not case.rival:
        run.drained[name, case.partitions] = subject
    return numbers, outcome, failures + defects(name, outcome, expected)


def medians(tries: Sequence[Numbers]) -> Numbers:
    """Median of each number; of the rates also the lowest and highest when there are several."""
    middle = {name: statistics.median(found[name] for found in tries) for name in tries[0]}
    if len(tries) == 1:
        return middle
    spread: Numbers = {}
    for name in ("events_per_second", "events_per_cpu_second"):
        values = [found[name] for found in tries]
        spread |= {f"{name}_min": min(values), f"{name}_max": max(values)}
    return middle | spread


def too_short(numbers: Mapping[str, Numbers]) -> list[str]:
    """Drains that were over before a rate could be read off."""
    return [
        f"{name} drained in {found['seconds']} s: too short for a rate"
        for name, found in numbers.items()
        if found["seconds"] < SHORTEST_S
    ]


def drain(run: Run, subject: Subject, expected: Expected) -> Numbers:
    """Follow one started subject to the end. Rates count from the first published batch: starting up is not draining."""
    cost = Cost(subject.pid)
    first = _wait_published(run, subject, cost, 1, expected)
    last = _wait_published(run, subject, cost, expected.unique, expected)
    _wait_committed(run, subject, INTERACTIONS, expected.events)
    if subject.setup.settings(run.services).windows_enabled:
        _wait_committed(run, subject, ITEM_ACTIVITY, run.services.kafka.count(ITEM_ACTIVITY))
    settled = _settle(run, cost) if subject.setup.redis else _look(run, subject, cost)
    return drain_numbers(first, last, settled, expected) | {"peak_rss_mib": cost.peak_mib(), "rss_growth_mib": cost.growth_mib()}


def drain_numbers(first: Sample, last: Sample, settled: Sample, expected: Expected) -> Numbers:
    """Rates from three samples: first published batch, last published batch, all done (committed, Redis written)."""
    share = (last.published - first.published) / expected.unique
    events = expected.events * share
    cpu, broker = settled.cpu - first.cpu, settled.broker_cpu - first.broker_cpu
    return {
        "events_per_second": round(events / (last.at - first.at)),
        "events_per_cpu_second": round(events / cpu),
        "seconds": round(last.at - first.at, 2),
        "seconds_to_done": round(settled.at - first.at, 2),
        "cpu_seconds": round(cpu, 2),
        "broker_cpu_seconds": round(broker, 2),
    }


def _wait_published(run: Run, subject: Subject, cost: Cost, wanted: int, expected: Expected) -> Sample:
    sample = _look(run, subject, cost)
    moved = time.monotonic()
    while sample.published < wanted:
        time.sleep(SAMPLE_S)
        subject.check()
        cost.sample_memory()
        before, sample = sample.published, _look(run, subject, cost)
        if sample.published > before:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALL_S:
            raise StalledError(subject.name, sample.published, expected.unique)
    return sample


def _wait_committed(run: Run, subject: Subject, topic: str, wanted: int) -> None:
    group = GroupOffsets(run.kafka_bootstrap, subject.setup.app_id)
    deadline = time.monotonic() + STALL_S
    try:
        while (done := sum(group.committed(topic, subject.setup.partitions).values())) < wanted:
            if time.monotonic() > deadline:
                raise StalledError(subject.name, done, wanted)
            time.sleep(SAMPLE_S / 2)
    finally:
        group.close()


def _settle(run: Run, cost: Cost) -> Sample:
    """Wait until the process idles; the sample is of the moment when idling began."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        sample = Sample(time.monotonic(), 0, cost.cpu(), cpu_seconds(run.services.broker.pid))
        time.sleep(IDLE_WINDOW_S)
        if cost.cpu() - sample.cpu < IDLE_CORES * IDLE_WINDOW_S or time.monotonic() > deadline:
            return sample


def _look(run: Run, subject: Subject, cost: Cost) -> Sample:
    return Sample(time.monotonic(), run.services.kafka.count(subject.output), cost.cpu(), cpu_seconds(run.services.broker.pid))


def _redis_defects(run: Run, name: str, expected: Expected) -> list[str]:
    """Every user with state must be in Redis (a subject may keep some keys of its own beside them)."""
    keys = run.services.redis_keys()
    return [] if keys >= expected.users else [f"{name}: {keys} keys in Redis, expected at least {expected.users} users"]


def _goals(numbers: dict[str, Numbers], redis: bool) -> list[Goal]:
    worker, hand = numbers.get("worker", {}), numbers.get("hand", {})
    per_cpu = worker.get("events_per_cpu_second")
    goals = [at_least("worker events per CPU-second", per_cpu, 40_000 if redis else 50_000)]
    if hand:
        goals.append(at_least("worker events per CPU-second, the hand-written loop's", per_cpu, hand["events_per_cpu_second"]))
    if not redis:
        goals.append(at_least("worker events/s on cores shared with the broker", worker.get("events_per_second"), 40_000))
    return [*goals, at_most("worker peak RSS in MiB", worker.get("peak_rss_mib"), 350)]


#: What a rival's events per CPU-second must be, as a share of the plain worker's.
RIVAL_SHARES: Final = {"eos": 0.6, "whole": 0.6}


def _rival_goals(numbers: Mapping[str, Numbers], rival: str) -> list[Goal]:
    plain, other = (numbers[name]["events_per_cpu_second"] for name in ("worker", rival))
    share = RIVAL_SHARES[rival]
    return [
        at_least(f"{rival}: events per CPU-second, {share:.0%} of the main job's", other, share * plain),
        at_most(f"{rival}: peak RSS in MiB", numbers[rival].get("peak_rss_mib"), 350),
    ]

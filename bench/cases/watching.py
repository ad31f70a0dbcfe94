"""What metrics and traces cost: drains by a worker that does without them in every second turn."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from app.settings import Settings
from bench.blinking import FILE, Turn, Turns
from bench.cases.drain import drain
from bench.result import CaseResult, Numbers, at_least, ratios
from bench.run import Run, running
from bench.services import Subject
from bench.verify import defects, read_outcome

PARTITIONS: Final = 4
#: Events per CPU-second that a worker which is watched has at least of those of one that is not.
SHARE: Final = 0.97
FEWEST_TURNS: Final = 10


def run_watching(run: Run) -> CaseResult:
    """Drain ``run.repeat`` times and add the turns up."""
    expected = run.fill_source(run.sizes.drain_events, PARTITIONS)
    found, failures = Turns(), list[str]()
    for _ in range(run.repeat):
        run.say("watching: blinking")
        subject = run.make("blinking", PARTITIONS, redis=False)
        with running(subject):
            drain(run, subject, expected)
        outcome = read_outcome(run.services.kafka, subject.output, subject.dead_letters)
        failures += defects("blinking", outcome, expected)
        _add(found, _read(run, subject))
    numbers = {"watched": _numbers(found.open), "unwatched": _numbers(found.shut)}
    ratio = ratios(numbers, "watched", "unwatched")
    few = [f"{name}: {one['turns']} turns are too few" for name, one in numbers.items() if one["turns"] < FEWEST_TURNS]
    return CaseResult(
        case="watching",
        parameters={"events": expected.events, "partitions": PARTITIONS, "repeats": run.repeat},
        subjects=numbers,
        ratio=ratio,
        goals=[at_least("events per CPU-second, watched / not", ratio.get("events_per_cpu_second"), SHARE)],
        failures=failures,
        void=few,
    )


def _read(run: Run, subject: Subject) -> Turns:
    settings: Settings = subject.setup.settings(run.services)
    return msgspec.json.decode(Path(settings.data_dir, FILE).read_bytes(), type=Turns)


def _add(to: Turns, more: Turns) -> None:
    for one, other in ((to.open, more.open), (to.shut, more.shut)):
        one.events += other.events
        one.cpu_seconds += other.cpu_seconds
        one.turns += other.turns


def _numbers(turn: Turn) -> Numbers:
    rate = round(turn.events / turn.cpu_seconds) if turn.cpu_seconds else 0
    return {"events_per_cpu_second": rate, "cpu_seconds": round(turn.cpu_seconds, 2), "turns": turn.turns}

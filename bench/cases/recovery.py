"""Recovery: the disk is empty, the changelog is not. How fast is the state back?"""

from __future__ import annotations

import shutil
import time

from bench.cases.drain import drain
from bench.procfs import cpu_seconds, memory_bytes
from bench.result import CaseResult, Goal, Numbers, Parameters, at_least, ratios
from bench.run import Run, running
from bench.services import Subject

NAME = "recovery"
PARTITIONS = 4
MIB = 1024**2


def run_recovery(run: Run) -> CaseResult:
    """Restore what the drain case left behind; without it, drain first."""
    events = run.sizes.drain_events
    expected = run.fill_source(events, PARTITIONS)
    numbers: dict[str, Numbers] = {}
    failures: list[str] = []
    for name in run.subjects:
        subject = run.drained.get((name, PARTITIONS))
        if subject is None:
            subject = run.make(name, PARTITIONS, redis=False)
            run.say(f"{NAME}: {name} writes its state first")
            with running(subject):
                drain(run, subject, expected)
        run.say(f"{NAME}: {name}")
        written = run.services.kafka.count(subject.changelog)
        numbers[name] = _restore(run, subject)
        if numbers[name]["records"] != written:
            failures.append(f"{name}: restored {numbers[name]['records']:.0f} of {written} changelog records")
    parameters: Parameters = {"events": events, "partitions": PARTITIONS}
    return CaseResult(
        case=NAME, parameters=parameters, subjects=numbers, ratio=ratios(numbers), goals=_goals(numbers), failures=failures
    )


def _restore(run: Run, subject: Subject) -> Numbers:
    shutil.rmtree(subject.setup.settings(run.services).data_dir, ignore_errors=True)
    started = time.monotonic()
    with running(subject):
        subject.wait_ready()
        seconds = time.monotonic() - started
        restored = subject.restored()
        return {
            "records": restored.records,
            "records_per_second": round(restored.records / restored.seconds) if restored.seconds else 0,
            "restore_seconds": round(restored.seconds, 2),
            "seconds_to_ready": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds(subject.pid), 2),
            "peak_rss_mib": round(memory_bytes(subject.pid, "VmHWM") / MIB, 1),
        }


def _goals(numbers: dict[str, Numbers]) -> list[Goal]:
    return [at_least("worker changelog records/s restored", numbers.get("worker", {}).get("records_per_second"), 150_000)]

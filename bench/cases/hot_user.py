"""One hot user: every event changes the same state. What does one more event write into the changelog?

Drained, many events share a unit and so one rewrite of the profile; at a steady rate units are small. Both are measured.
"""

from __future__ import annotations

import time
from itertools import islice

from app.topics import INTERACTIONS
from bench.cases.drain import drain
from bench.events import clean_clicks, read_events, templates, write_events
from bench.kafka import GroupOffsets
from bench.load import SLOT, SendPlan, preload, send_plan
from bench.result import CaseResult, Goal, Numbers, Parameters, at_most, ratios
from bench.run import EVENT_AGE_MS, Run, now_ms, running
from bench.schedule import NANOSECOND, Slice
from bench.services import Subject
from bench.verify import defects, read_outcome

NAME = "hot-user"
PARTITIONS = 10
PACED_RATE = 1000.0
TEMPLATES = 1000
LEAD_NS = NANOSECOND // 2
DONE_S = 30.0
MAX_BYTES = 300  # issue: changelog bytes per event of the hottest user


class NotProcessedError(Exception):
    """Events of the paced part were not committed in time."""

    def __init__(self, name: str, done: int, sent: int) -> None:
        super().__init__(f"{name} committed {done} of {sent} paced events within {DONE_S:g} s")


def run_hot_user(run: Run) -> CaseResult:
    """Changelog bytes (keys and values, uncompressed) per event of one user, drained and at a steady rate."""
    numbers: dict[str, Numbers] = {}
    failures: list[str] = []
    for name in run.subjects:
        run.say(f"{NAME}: {name}")
        numbers[name] = _drained(run, name, failures) | _paced(run, name)
    parameters: Parameters = {
        "events": run.sizes.hot_events,
        "paced_rate": PACED_RATE,
        "paced_seconds": run.sizes.hot_paced_s,
        "partitions": PARTITIONS,
    }
    return CaseResult(
        case=NAME, parameters=parameters, subjects=numbers, ratio=ratios(numbers), goals=_goals(numbers), failures=failures
    )


def _drained(run: Run, name: str, failures: list[str]) -> Numbers:
    path, events = run.services.folder / "hot.bin", run.sizes.hot_events
    expected = write_events(path, clean_clicks(events, now_ms() - EVENT_AGE_MS - events, users=1))[events]
    run.empty_source(PARTITIONS)
    preload(run.kafka_bootstrap, INTERACTIONS, read_events(path))
    subject = run.make(name, PARTITIONS, redis=False)
    with running(subject):
        numbers = drain(run, subject, expected)
    failures += defects(name, read_outcome(run.services.kafka, subject.output, subject.dead_letters), expected)
    keep = ("events_per_second", "events_per_cpu_second", "seconds")
    return {key: numbers[key] for key in keep} | {"changelog_bytes_per_event": round(changelog_bytes(run, subject) / events, 2)}


def _paced(run: Run, name: str) -> Numbers:
    path = run.services.folder / "hot-templates.bin"
    write_events(path, templates(islice(clean_clicks(TEMPLATES, now_ms() - EVENT_AGE_MS, users=1), TEMPLATES), SLOT))
    run.empty_source(PARTITIONS)
    subject = run.make(name, PARTITIONS, redis=False)
    with running(subject):
        subject.wait_ready()
        part = Slice(INTERACTIONS, 0.0, run.sizes.hot_paced_s, PACED_RATE)
        report = send_plan(SendPlan(run.kafka_bootstrap, str(path), time.monotonic_ns() + LEAD_NS, [part]))
        _wait_committed(run, subject, sum(report.sent))
    return {"paced_changelog_bytes_per_event": round(changelog_bytes(run, subject) / sum(report.sent), 2)}


def changelog_bytes(run: Run, subject: Subject) -> int:
    """Bytes of keys and values that a subject has written into its changelog."""
    return sum(
        len(message.key() or b"") + len(message.value() or b"") for message in run.services.kafka.read_all(subject.changelog)
    )


def _wait_committed(run: Run, subject: Subject, sent: int) -> None:
    group, deadline = GroupOffsets(run.kafka_bootstrap, subject.setup.app_id), time.monotonic() + DONE_S
    try:
        while (done := sum(group.committed(INTERACTIONS, PARTITIONS).values())) < sent:
            if time.monotonic() > deadline:
                raise NotProcessedError(subject.name, done, sent)
            time.sleep(0.1)
    finally:
        group.close()


def _goals(numbers: dict[str, Numbers]) -> list[Goal]:
    worker = numbers.get("worker", {})
    return [
        at_most("worker changelog bytes per event, drained", worker.get("changelog_bytes_per_event"), MAX_BYTES),
        at_most("worker changelog bytes per event, at 1,000/s", worker.get("paced_changelog_bytes_per_event"), MAX_BYTES),
    ]

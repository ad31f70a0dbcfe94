"""A flood of poison: what is left of the speed of good events when three in ten records are dead letters, too few for the breaker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from app.cli.clickstream import BAD_KINDS, Click, Clickstream
from bench.cases.drain import drain, medians, too_short
from bench.events import SEED, USERS, Expected
from bench.result import CaseResult, Numbers, at_least
from bench.run import EVENT_AGE_MS, Run, now_ms, running
from bench.verify import defects, read_outcome

PARTITIONS: Final = 4
BAD_SHARE: Final = 0.3
#: What good events keep of their speed.
KEPT: Final = 0.8


def traffic(events: int, start_ms: int, tag: str) -> Iterator[Click]:
    """``clean``: no bad events; ``flood``: three in ten, of the size of others; ``oversize``: a sixth of those with 40 KB."""
    share = 0.0 if tag == "clean" else BAD_SHARE
    kinds = len(BAD_KINDS)
    if tag == "flood":  # so many that the share is right once the oversize ones are left out
        share = kinds * share / (kinds - 1 + share)
    stream = Clickstream(SEED, users=USERS, run_tag=tag, bad_share=share)
    while events:
        click = stream.next(start_ms)
        if tag == "flood" and click.kind == "oversize":
            continue
        yield click
        start_ms, events = start_ms + 1, events - 1


def run_flood(run: Run) -> CaseResult:
    """Drain clean and poisoned traffic in turns; as many good events of each."""
    tries: dict[str, list[Numbers]] = {"clean": [], "flood": [], "oversize": []}
    good, failures = int(run.sizes.wide_events * (1 - BAD_SHARE)), list[str]()
    for number in range(run.repeat):
        for tag in tries if number % 2 == 0 else reversed(tries):
            events = good if tag == "clean" else run.sizes.wide_events
            expected = run.load_source(traffic(events, now_ms() - EVENT_AGE_MS - events, tag), PARTITIONS)
            found, wrong = _one(run, tag, expected)
            tries[tag].append(found)
            failures += wrong
    numbers = {tag: medians(found) for tag, found in tries.items()}
    kept = {tag: round(numbers[tag]["good_per_second"] / numbers["clean"]["good_per_second"], 3) for tag in ("flood", "oversize")}
    return CaseResult(
        case="flood",
        parameters={"good_events": good, "bad_share": BAD_SHARE, "partitions": PARTITIONS, "repeats": run.repeat},
        subjects=numbers,
        ratio=kept,
        goals=[at_least(f"good events a second, {tag} / clean", share, KEPT) for tag, share in kept.items()],
        failures=failures,
        void=too_short(numbers),
    )


def _one(run: Run, tag: str, expected: Expected) -> tuple[Numbers, list[str]]:
    run.say(f"flood: {tag}")
    subject = run.make("worker", PARTITIONS, redis=False)
    with running(subject):
        numbers = drain(run, subject, expected)
    good = 1 - expected.bad / expected.events
    numbers |= {f"good_per_{unit}": round(numbers[f"events_per_{unit}"] * good) for unit in ("second", "cpu_second")}
    return numbers, defects(tag, read_outcome(run.services.kafka, subject.output, subject.dead_letters), expected)

"""When to send what: an open-loop plan, fixed before the first event is sent.

A plan is a list of slices, one after another. A slice sends one rate to one target; the targets (the raw floor,
the worker, the hand-written loop) alternate, so that a change of the machine's load meets all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

NANOSECOND = 1_000_000_000
Arrivals = Literal["uniform", "poisson"]


class Slice(msgspec.Struct, frozen=True):
    """``rate`` events per second into topic ``target`` for ``seconds``, starting ``offset_s`` after the plan's start.

    What is sent in a ``warmup`` slice is delivered and checked, but its latency is not counted.
    """

    target: str
    offset_s: float
    seconds: float
    rate: float
    warmup: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """How long one target is measured in all rounds together, in seconds."""

    target: str
    seconds: float


def interleave(shares: Sequence[Share], rate: float, rounds: int, warmup_s: float, gap_s: float) -> list[Slice]:
    """Warm every target up, then visit all of them ``rounds`` times, every second round in reverse order (ABBA).

    ``gap_s`` of silence after each slice lets a backlog drain before the next target is measured.
    """
    visits = [(share.target, warmup_s, True) for share in shares]
    for number in range(rounds):
        order = shares if number % 2 == 0 else list(reversed(shares))
        visits += [(share.target, share.seconds / rounds, False) for share in order]
    plan, offset = [], 0.0
    for target, seconds, warmup in visits:
        plan.append(Slice(target, offset, seconds, rate, warmup))
        offset += seconds + gap_s
    return plan


def send_times(part: Slice, start_ns: int, arrivals: Arrivals = "uniform", seed: int = 0) -> Iterator[int]:
    """Intended send times of one slice, in ns of the clock that ``start_ns`` was read from; never decreasing."""
    first = start_ns + int(part.offset_s * NANOSECOND)
    if arrivals == "uniform":
        step = NANOSECOND / part.rate
        yield from (first + int(i * step) for i in range(events_in(part)))
        return
    draw, elapsed = random.Random(seed), 0.0  # noqa: S311  a load, not a secret
    while (elapsed := elapsed + draw.expovariate(part.rate)) < part.seconds:
        yield first + int(elapsed * NANOSECOND)


def events_in(part: Slice) -> int:
    """How many events a slice sends with uniform arrivals."""
    return int(part.rate * part.seconds)


def plan_seconds(plan: Sequence[Slice]) -> float:
    """Length of the whole plan."""
    return max(part.offset_s + part.seconds for part in plan)

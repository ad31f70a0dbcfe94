"""Exact set algebra between the truth and what a run left behind. One checker for all faults, and a pure function.

Every difference is a sentence in ``Verdict.violations``; a run passes when there is none.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from tests.faults.observed import Seen, marker_of, profiles_of
from tests.faults.reference import Truth

Guarantee = Literal["at_least_once", "exactly_once"]
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Promise:
    """What a fault may cost. ``text`` goes into docs/guarantees.md."""

    guarantee: Guarantee
    may_repeat: bool
    """Outputs and dead letters may be there more than once, each time with the same bytes"""
    text: str = ""


@dataclass(slots=True)
class Verdict:
    """Numbers of a run, and what is wrong with it."""

    sent: int = 0
    outputs: int = 0
    duplicate_outputs: int = 0
    dead_letters: int = 0
    duplicate_dead_letters: int = 0
    lost: int = 0
    phantom: int = 0
    sequence_holes: int = 0
    state_differences: int = 0
    violations: list[str] = field(default_factory=list)

    def require(self, is_kept: bool, sentence: str) -> None:
        """Note ``sentence`` as a violation unless ``is_kept``."""
        if not is_kept:
            self.violations.append(sentence)

    def none(self, what: str, found: Iterable[object]) -> int:
        """Note a violation with the first few of ``found`` if there are any; returns how many."""
        listed = sorted(map(str, found))
        shown = ", ".join(listed[:SHOWN]) + (" ..." if len(listed) > SHOWN else "")
        self.require(not listed, f"{len(listed)} {what}: {shown}")
        return len(listed)


def check(truth: Truth, acked: Iterable[bytes], seen: Seen, promise: Promise) -> Verdict:
    """Compare.

    Args:
        truth: the fold of the source topic.
        acked: values that the broker acknowledged to the sender.
        seen: what was read back; empty parts of it (disks, lookups, ledger) were not asked for and are not checked.
        promise: whether repeated outputs are allowed.
    """
    verdict = Verdict(sent=truth.records)
    lost_in_kafka = verdict.none("acknowledged source records are not in the topic", set(acked) - truth.values)
    _check_outputs(truth, seen, promise, verdict)
    _check_dead_letters(truth, seen, promise, verdict)
    _check_changelog(truth, seen, verdict)
    _check_disks(seen, verdict)
    _check_lookups(truth, seen, verdict)
    _check_ledger(truth, seen, verdict)
    verdict.lost += lost_in_kafka
    return verdict


def _check_outputs(truth: Truth, seen: Seen, promise: Promise, verdict: Verdict) -> None:
    first: dict[str, bytes] = {}
    changed: list[str] = []
    numbers: dict[bytes, list[int]] = defaultdict(list)
    for identity, key, value in seen.outputs:
        if identity in first:
            verdict.duplicate_outputs += 1
            if first[identity] != value:
                changed.append(identity)
            continue
        first[identity] = value
        numbers[key].append(_sequence_in(value))
    verdict.outputs = len(first)
    verdict.none("outputs were repeated with other bytes", changed)
    verdict.lost += verdict.none("outputs are missing", truth.outputs.keys() - first.keys())
    verdict.phantom += verdict.none("outputs have no valid unique source record", first.keys() - truth.outputs.keys())
    common = truth.outputs.keys() & first.keys()
    verdict.none("outputs differ from the reference", [one for one in common if truth.outputs[one] != first[one]])
    holes = [key for key, found in numbers.items() if sorted(found) != list(range(1, len(found) + 1))]
    verdict.sequence_holes = verdict.none("users are not numbered 1..n", holes)
    verdict.none("users have outputs out of order", [key for key, found in numbers.items() if found != sorted(found)])
    verdict.require(promise.may_repeat or not verdict.duplicate_outputs, f"{verdict.duplicate_outputs} outputs were repeated")


def _check_dead_letters(truth: Truth, seen: Seen, promise: Promise, verdict: Verdict) -> None:
    counted = Counter(identity for identity, _, _ in seen.dead_letters)
    found = {identity: (reason, value) for identity, reason, value in seen.dead_letters}
    verdict.dead_letters = len(found)
    verdict.duplicate_dead_letters = len(seen.dead_letters) - len(found)
    verdict.lost += verdict.none("dead letters are missing", truth.dead_letters.keys() - found.keys())
    verdict.phantom += verdict.none("dead letters of good records", found.keys() - truth.dead_letters.keys())
    common = truth.dead_letters.keys() & found.keys()
    different = [one for one in common if truth.dead_letters[one] != found[one]]
    verdict.none("dead letters have another reason or other bytes", different)
    repeated = [one for one, times in counted.items() if times > 1]
    if not promise.may_repeat:
        verdict.none("dead letters were repeated", repeated)


def _check_changelog(truth: Truth, seen: Seen, verdict: Verdict) -> None:
    profiles: dict[str, tuple[int, int]] = {}
    for state in seen.changelog.values():
        profiles |= profiles_of(state)
    users = truth.sequences.keys() | profiles.keys()
    wrong = [
        f"{user} {profiles.get(user)} instead of {truth.sequences.get(user)}"
        for user in users
        if profiles.get(user) != (truth.sequences.get(user), truth.sequences.get(user))
    ]
    verdict.state_differences += verdict.none("profiles (sequence, sum of counts) in the changelog are wrong", wrong)
    for partition, end in truth.ends.items():
        marker = marker_of(seen.changelog.get(partition, {}))
        stated = None if marker is None else (marker.next_offset, marker.consumed, marker.outcomes)
        text = f"partition {partition}: the marker says (next offset, consumed, outcomes) {stated}, the source ends at {end}"
        verdict.require(stated == (end, end, end), text)


def _check_disks(seen: Seen, verdict: Verdict) -> None:
    for partition, disk in seen.disks.items():
        logged = {key: value for key, value in seen.changelog[partition].items() if not key.startswith(b"\0")}
        wrong = [key for key in disk.keys() | logged.keys() if disk.get(key) != logged.get(key)]
        verdict.state_differences += verdict.none(f"keys of partition {partition} differ between RocksDB and changelog", wrong)


def _check_lookups(truth: Truth, seen: Seen, verdict: Verdict) -> None:
    wrong = [
        f"{user} {number} instead of {truth.sequences.get(user)}"
        for user, number in seen.lookups.items()
        if number != truth.sequences.get(user)
    ]
    verdict.state_differences += verdict.none("lookups in Redis are wrong", wrong)


def _check_ledger(truth: Truth, seen: Seen, verdict: Verdict) -> None:
    if seen.ledger:
        emitted = (len(truth.outputs), truth.duplicates, len(truth.dead_letters))
        expected = dict(zip(("emitted", "duplicates", "dead_lettered"), emitted, strict=True))
        expected |= {"consumed": truth.records, "retried": 0, "dropped": 0, "residue": 0}
        stated = {name: seen.ledger.get(name) for name in expected}
        verdict.require(stated == expected, f"the workers' ledgers say {stated} instead of {expected}")


def _sequence_in(value: bytes) -> int:
    """The user's number of an output; 0 when it has none."""
    found = re.search(rb'"veltrix":\{"sequence":(\d+),', value)
    return int(found[1]) if found else 0

"""The checker on made-up runs: it objects to each kind of damage, and to nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from app.cli.clickstream import Click
from tests.faults.checker import Guarantee, Promise, Verdict, check
from tests.faults.observed import MARKER_KEY, Seen
from tests.faults.reference import SourceRecord, Truth, fold, reasons_of

MAY_REPEAT, ONCE = Promise("at_least_once", True), Promise("exactly_once", False)
BAD = Click("truncated_json", b"1", b'{"mess')


def event(number: int, user: str = "1") -> bytes:
    return json.dumps({"messageId": f"m{number}", "userId": user}).encode()


SOURCE = [event(1), event(2, "2"), event(3), event(1), BAD.value, event(4)]


def truth() -> Truth:
    records = [SourceRecord("interactions", 0, offset, value, 1_000 + offset) for offset, value in enumerate(SOURCE)]
    return fold(records, reasons_of([BAD]))


def profile(sequence: int) -> bytes:
    return msgspec.msgpack.encode([1, 0, 0, 0, sequence, {1: sequence}, [], []])


def marker(next_offset: int, consumed: int, emitted: int = 4) -> bytes:
    return msgspec.msgpack.encode([{"interactions": next_offset}, {}, consumed, emitted, 1, 1, 0, 0])


def exact() -> Seen:
    """What a perfect worker leaves behind."""
    expected = truth()
    users = {0: b"1", 1: b"2", 2: b"1", 5: b"1"}
    table = {b"pu:1": profile(3), b"pu:2": profile(1)}
    return Seen(
        outputs=[(f"interactions:0:{o}", key, expected.outputs[f"interactions:0:{o}"]) for o, key in users.items()],
        dead_letters=[("interactions:0:4", "invalid_json", BAD.value)],
        changelog={0: table | {MARKER_KEY: marker(6, 6)}},
        disks={0: dict(table)},
        lookups={"u:1": 3, "u:2": 1},
        ledger={"consumed": 6, "emitted": 4, "duplicates": 1, "dead_lettered": 1, "retried": 0, "dropped": 0, "residue": 0},
    )


def judge(damage: Callable[[Seen], object] = lambda seen: None, promise: Promise = ONCE) -> Verdict:
    seen = exact()
    damage(seen)
    return check(truth(), SOURCE, seen, promise)


def test_the_reference_numbers_users_and_knows_duplicates_and_defects() -> None:
    expected = truth()

    assert (expected.records, expected.duplicates, expected.sequences) == (6, 1, {"u:1": 3, "u:2": 1})
    assert expected.outputs["interactions:0:5"] == event(4)[:-1] + b',"veltrix":{"sequence":3,"received_at":1005}}'
    assert expected.dead_letters == {"interactions:0:4": ("invalid_json", BAD.value)}


@pytest.mark.parametrize("promise", [ONCE, MAY_REPEAT])
def test_a_perfect_run_passes(promise: Promise) -> None:
    verdict = judge(promise=promise)

    assert verdict.violations == []
    assert (verdict.sent, verdict.outputs, verdict.dead_letters, verdict.lost) == (6, 4, 1, 0)


@pytest.mark.parametrize(("guarantee", "is_kept"), [("at_least_once", True), ("exactly_once", False)])
def test_an_identical_repetition_is_allowed_at_least_once_alone(guarantee: Guarantee, is_kept: bool) -> None:
    promise = Promise(guarantee, guarantee == "at_least_once")

    output = judge(lambda seen: seen.outputs.append(seen.outputs[0]), promise)
    letter = judge(lambda seen: seen.dead_letters.append(seen.dead_letters[0]), promise)

    assert (output.duplicate_outputs, letter.duplicate_dead_letters) == (1, 1)
    assert (not output.violations, not letter.violations) == (is_kept, is_kept)


DAMAGES: dict[str, tuple[Callable[[Seen], object], str]] = {
    "output lost": (lambda seen: seen.outputs.pop(), "outputs are missing"),
    "output of a duplicate": (lambda seen: seen.outputs.append(("interactions:0:3", b"1", event(1))), "no valid unique source"),
    "output changed": (lambda seen: seen.outputs.__setitem__(0, (*seen.outputs[0][:2], event(9))), "differ from the reference"),
    "repeated with other bytes": (
        lambda seen: seen.outputs.append((*seen.outputs[0][:2], seen.outputs[0][2] + b" ")),
        "repeated with other bytes",
    ),
    "outputs out of order": (lambda seen: seen.outputs.reverse(), "out of order"),
    "hole in a sequence": (lambda seen: seen.outputs.pop(2), "not numbered 1..n"),
    "dead letter lost": (lambda seen: seen.dead_letters.clear(), "dead letters are missing"),
    "dead letter of a good record": (
        lambda seen: seen.dead_letters.append(("interactions:0:0", "oversize", b"")),
        "dead letters of good records",
    ),
    "dead letter with another reason": (
        lambda seen: seen.dead_letters.__setitem__(0, ("interactions:0:4", "oversize", BAD.value)),
        "another reason or other bytes",
    ),
    "profile counted twice": (lambda seen: seen.changelog[0].update({b"pu:1": profile(4)}), "in the changelog are wrong"),
    "profile lost": (lambda seen: seen.changelog[0].pop(b"pu:2"), "in the changelog are wrong"),
    "marker behind": (lambda seen: seen.changelog[0].update({MARKER_KEY: marker(5, 6)}), "the marker says"),
    "consumed twice": (lambda seen: seen.changelog[0].update({MARKER_KEY: marker(6, 7)}), "the marker says"),
    "outcome missing": (lambda seen: seen.changelog[0].update({MARKER_KEY: marker(6, 6, 3)}), "the marker says"),
    "no marker": (lambda seen: seen.changelog[0].pop(MARKER_KEY), "the marker says"),
    "disk behind the changelog": (lambda seen: seen.disks[0].update({b"pu:1": profile(2)}), "RocksDB and changelog"),
    "disk ahead of the changelog": (lambda seen: seen.disks[0].update({b"s1": b"x"}), "RocksDB and changelog"),
    "stale lookup": (lambda seen: seen.lookups.update({"u:1": 2}), "lookups in Redis"),
    "ledger off": (lambda seen: seen.ledger.update(emitted=5), "ledgers say"),
    "residue": (lambda seen: seen.ledger.update(residue=1), "ledgers say"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_called_by_its_name(name: str) -> None:
    damage, sentence = DAMAGES[name]

    verdict = judge(damage, MAY_REPEAT)

    assert any(sentence in violation for violation in verdict.violations), verdict.violations


def test_an_acknowledged_record_that_is_not_in_the_source_is_lost() -> None:
    verdict = check(truth(), [*SOURCE, event(99)], exact(), ONCE)

    assert verdict.lost == 1
    assert "acknowledged source records" in verdict.violations[0]

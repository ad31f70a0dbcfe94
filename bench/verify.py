"""Are the results right? A fast wrong pipeline has no speed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from bench.events import ID_FIELD, Expected
from bench.kafka import Kafka

MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a subject published. ``digest`` does not depend on the order between partitions."""

    records: int
    distinct: int
    digest: int
    dead_letters: int


def outcome_of(values: Iterable[bytes], dead_letters: int) -> Outcome:
    """Count published values and their distinct ``messageId``s; the digest sums the hash of each distinct event once."""
    seen: set[bytes] = set()
    records = digest = 0
    for value in values:
        records += 1
        start = value.index(ID_FIELD) + len(ID_FIELD)
        message_id = value[start : value.index(b'"', start)]
        if message_id not in seen:
            seen.add(message_id)
            digest = (digest + xxh3_64_intdigest(value)) & MASK
    return Outcome(records, len(seen), digest, dead_letters)


def read_outcome(kafka: Kafka, output: str, dead_letters: str) -> Outcome:
    """The outcome of a finished drain, from its topics."""
    return outcome_of((message.value() or b"" for message in kafka.read_all(output)), sum(1 for _ in kafka.read_all(dead_letters)))


def defects(name: str, outcome: Outcome, expected: Expected) -> list[str]:
    """What is wrong with an outcome, in words; nothing for an exact one."""
    found = []
    if outcome.distinct != expected.unique:
        found.append(f"{name}: {outcome.distinct} distinct enriched events, expected {expected.unique}")
    if outcome.records != outcome.distinct:
        found.append(f"{name}: {outcome.records - outcome.distinct} events were published twice although nothing failed")
    if outcome.dead_letters != expected.bad:
        found.append(f"{name}: {outcome.dead_letters} dead letters, expected {expected.bad}")
    return found


def disagreement(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Subjects fed the same records must publish the same bytes: the value is a function of record and state."""
    digests = {name: outcome.digest for name, outcome in outcomes.items()}
    return [f"published bytes differ: {digests}"] if len(set(digests.values())) > 1 else []

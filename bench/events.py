"""The benchmark's events: the generator's clickstream, with the number of duplicates and defects counted.

Written once per run to a file and produced from there for every case, so that all subjects get the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct

from app.cli.clickstream import Click, Clickstream
from app.domain.routing import partition_of

FRAME = Struct("<HI")
USERS = 100_000
SEED = 1
INTERVAL_MS = 1.0
ID_FIELD = b'"messageId":"'


@dataclass(frozen=True, slots=True)
class Expected:
    """What a correct pipeline makes of the events: outputs, dropped duplicates, dead letters, users with state."""

    events: int
    unique: int
    duplicates: int
    bad: int
    users: int
    value_bytes: int


def clicks(events: int, start_ms: int, *, users: int = USERS, tag: str = "b") -> Iterator[Click]:
    """Mixed traffic: 1 % duplicates, 0.5 % defects of all kinds, Zipf users. ``start_ms`` is the first event's time (epoch ms)."""
    return Clickstream(SEED, users=users, run_tag=tag).events(events, start_ms, INTERVAL_MS)


def clean_clicks(events: int, start_ms: int, *, users: int = USERS, tag: str = "t") -> Iterator[Click]:
    """Valid, distinct events only; one user means one key."""
    stream = Clickstream(
        SEED, users=users, run_tag=tag, duplicate_share=0.0, bad_share=0.0, anonymous_share=0.2 if users > 1 else 0.0
    )
    return stream.events(events, start_ms, INTERVAL_MS)


def only_partition(stream: Iterable[Click], partition: int, partitions: int) -> Iterator[Click]:
    """Those events whose key belongs to one partition: the others stay idle."""
    return (click for click in stream if partition_of(click.key, partitions) == partition)


def templates(stream: Iterable[Click], slot: bytes) -> Iterator[Click]:
    """The same events with ``slot`` in place of the ``messageId``: the sender fills it in."""
    for click in stream:
        start = click.value.index(ID_FIELD) + len(ID_FIELD)
        end = click.value.index(b'"', start)
        yield click._replace(value=click.value[:start] + slot + click.value[end:])


class Tally:
    """Counts events while they pass."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.users: set[bytes] = set()
        self.value_bytes = 0

    def add(self, click: Click) -> None:
        self.kinds[click.kind] += 1
        self.value_bytes += len(click.value)
        if click.kind == "valid":
            self.users.add(click.key)

    def expected(self) -> Expected:
        events, unique, duplicates = self.kinds.total(), self.kinds["valid"], self.kinds["duplicate"]
        return Expected(events, unique, duplicates, events - unique - duplicates, len(self.users), self.value_bytes)


def write_events(path: Path, events: Iterable[Click], marks: Iterable[int] = ()) -> dict[int, Expected]:
    """Write events to a file. What to expect of the first ``mark`` events, for each mark and for all."""
    tally, found, wanted = Tally(), {}, set(marks)
    with path.open("wb", buffering=1 << 20) as file:
        for click in events:
            tally.add(click)
            file.write(FRAME.pack(len(click.key), len(click.value)))
            file.write(click.key)
            file.write(click.value)
            if tally.kinds.total() in wanted:
                found[tally.kinds.total()] = tally.expected()
    whole = tally.expected()
    return found | {whole.events: whole}


def read_events(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of each event of a file, in order."""
    data = memoryview(path.read_bytes())
    offset, end = 0, len(data)
    while offset < end:
        key_size, value_size = FRAME.unpack_from(data, offset)
        offset += FRAME.size
        yield bytes(data[offset : offset + key_size]), bytes(data[offset + key_size : offset + key_size + value_size])
        offset += key_size + value_size

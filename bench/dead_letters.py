"""The index of dead letters at size: how fast it takes them in, how fast it answers.

``python -m bench.dead_letters [letters]``: builds an index of 1,000,000 letters (about 1 GB in a temporary folder) out of encoded
records, as ``veltrix admin`` gets them from Kafka, then asks every kind of question 50 times. One JSON line at the end.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from app.dead_letters.api import DeadLetterRecord, Filters
from app.dead_letters.dialects import decode_any
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.writing import IndexWriter
from app.dead_letters.record import DeadLetterRecordEncoder
from app.engine.api import Failure
from app.settings import Settings
from app.topics import INTERACTIONS, dead_letters_of

LETTERS: Final = 1_000_000
BATCH: Final = 1000
PARTITIONS: Final = 10
TIMES: Final = 50
START_MS: Final = 1_700_000_000_000
QUEUE: Final = dead_letters_of("veltrix", INTERACTIONS)


def records(count: int, chance: random.Random) -> Iterator[Any]:
    """As they are read from Kafka: 40 kinds of failure, a few of them most; 50,000 users, five versions; 5 a millisecond."""
    encoders = [DeadLetterRecordEncoder(Settings(app_version=f"1.{n}.0")) for n in range(5)]
    for number in range(count):
        user, at_ms = f"user-{chance.randrange(50_000)}", START_MS + number // 5
        value = {
            "messageId": f"m-{number}", "userId": user, "type": "track", "event": "Product Viewed",
            "properties": {"product_id": f"sku-{chance.randrange(5000)}", "url": f"https://shop.example/p/{chance.randrange(10_000)}"},
        }  # fmt: skip
        source = SimpleNamespace(
            topic=INTERACTIONS, partition=number % PARTITIONS, offset=number, key=user.encode(), value=json.dumps(value).encode(),
            timestamp=at_ms, timestamp_type=0, headers=(),
        )  # fmt: skip
        failure = Failure("validate", f"reason_{min(39, int(chance.paretovariate(1)) - 1)}", "does not fit the schema")
        sent = encoders[number * 5 // count](source, failure, at_ms)
        yield SimpleNamespace(
            topic=QUEUE, partition=source.partition, offset=number // PARTITIONS, key=sent.key, value=sent.value, timestamp=at_ms,
            timestamp_type=0, headers=sent.headers,
        )  # fmt: skip


def build(path: Path, count: int) -> dict[str, float]:
    """Fill the index; only decoding and writing are timed, not making the records."""
    writer, source, cpu, wall = IndexWriter(path), records(count, random.Random(1)), 0.0, 0.0  # noqa: S311 - test data
    for begin in range(0, count, BATCH):
        batch = [next(source) for _ in range(min(BATCH, count - begin))]
        cpu_0, wall_0 = time.process_time(), time.perf_counter()
        letters: list[DeadLetterRecord] = [*map(decode_any, batch)]
        writer.add(letters, {(QUEUE, record.partition): record.offset + 1 for record in batch})
        cpu, wall = cpu + time.process_time() - cpu_0, wall + time.perf_counter() - wall_0
    writer.close()
    return {
        "letters_per_second": count / wall,
        "letters_per_cpu_second": count / cpu,
        "bytes_per_letter": path.stat().st_size / count,
    }


def questions(count: int) -> dict[str, Callable[[IndexReader, int], object]]:
    """By name; the number makes each asking another one."""
    end_ms = START_MS + count // 5
    page: dict[str, Callable[[int], Filters]] = {
        "newest": lambda n: Filters(),
        "reason, common": lambda n: Filters(reason="reason_0"),
        "reason, rare": lambda n: Filters(reason="reason_38"),
        "key": lambda n: Filters(key=f"user-{n * 7}".encode()),
        "stage and oldest version": lambda n: Filters(stage="validate", app_version="1.0.0"),
        "version and rare reason": lambda n: Filters(app_version="1.1.0", reason="reason_30"),
        "status, stage, version": lambda n: Filters(status="pending", stage="validate", app_version="1.2.0"),
        "a second of time": lambda n: Filters(failed_after_ms=end_ms - 5000 - n, failed_before_ms=end_ms - 4000 - n),
        "one id": lambda n: Filters(query=f"m-{n * 17}"),
        "a word in all": lambda n: Filters(query="viewed"),
        "two words in all": lambda n: Filters(query="product viewed"),
        "a common and a rare word": lambda n: Filters(query=f"viewed sku-{n}"),
        "beginning of a word": lambda n: Filters(query=f"user-{n + 100}*"),
        "a word in all, rare reason": lambda n: Filters(query="viewed", reason="reason_38"),
        "a word in all, oldest version": lambda n: Filters(query="viewed", app_version="1.0.0"),
        "a word in none": lambda n: Filters(query="nothing-like-it"),
    }

    def first(of: Callable[[int], Filters]) -> Callable[[IndexReader, int], object]:
        return lambda index, n: index.page(QUEUE, 50, None, of(n))

    asked = {name: first(of) for name, of in page.items()}
    return asked | {"groups": lambda index, n: index.groups(QUEUE), "a queue's numbers": lambda index, n: index.statuses(QUEUE)}


def ask(path: Path, count: int) -> dict[str, dict[str, float]]:
    """p50, p99 and the longest, ms."""
    index, found = IndexReader(path), dict[str, dict[str, float]]()
    for name, question in questions(count).items():
        spent = []
        for number in range(TIMES):
            started = time.perf_counter()
            question(index, number)
            spent.append((time.perf_counter() - started) * 1000)
        spent.sort()
        found[name] = {"p50_ms": spent[TIMES // 2], "p99_ms": spent[TIMES * 99 // 100], "max_ms": spent[-1]}
        print(f"{name:32} {spent[TIMES // 2]:8.2f} {spent[TIMES * 99 // 100]:8.2f}", file=sys.stderr)
    index.close()
    return found


def main() -> None:
    """Run it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else LETTERS
    with tempfile.TemporaryDirectory(prefix="dead-letters-") as directory:
        path = Path(directory) / "index.sqlite"
        built = build(path, count)
        print(json.dumps({"letters": count} | built | {"questions": ask(path, count)}))


if __name__ == "__main__":
    main()

"""Pages over partitions: newest first, nothing twice, nothing left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letters.api import DeadLetterRecord, Filters, InvalidQuery
from app.dead_letters.decode import decode_dead_letter
from app.dead_letters.scan import Scan, decode_cursor, encode_cursor
from app.dead_letters.topic_log import Window
from tests.dead_letters.records import FakeRecord

Log = dict[int, list[DeadLetterRecord]]
REASONS = ("bad", "worse")


def letter(partition: int, offset: int, timestamp: int, reason: str = "bad") -> DeadLetterRecord:
    return decode_dead_letter(FakeRecord("dlq", partition, offset, timestamp=timestamp, headers=[("dlq.reason", reason.encode())]))


def log_of(steps: list[list[tuple[int, str]]]) -> Log:
    """Partition -> records whose timestamps grow by the given steps."""
    log: Log = {}
    for partition, column in enumerate(steps):
        log[partition], now = [], 0
        for offset, (step, reason) in enumerate(column):
            now += step
            log[partition].append(letter(partition, offset, now, reason))
    return log


def page(
    log: Log, below: dict[int, int], limit: int, filters: Filters, max_scanned: int = 10_000
) -> tuple[list[str], dict[int, int] | None]:
    ranges = {number: Window(0, min(len(column), below.get(number, len(column)))) for number, column in log.items()}
    scan = Scan(ranges, limit, filters, max_scanned)
    while windows := scan.wanted():
        for number, window in windows.items():
            scan.feed(number, window, log[number][window.begin : window.end])
        scan.merge()
    return [record.id for record in scan.found], scan.below()


def all_pages(log: Log, limit: int, filters: Filters, max_scanned: int = 10_000) -> list[str]:
    ids, below = page(log, {}, limit, filters, max_scanned)
    while below is not None:
        below = decode_cursor("q", encode_cursor("q", below))
        more, below = page(log, below, limit, filters, max_scanned)
        ids += more
    return ids


LOGS = st.lists(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(REASONS)), max_size=40), min_size=1, max_size=4).map(log_of)


@given(LOGS, st.integers(1, 12))
def test_pages_give_every_record_once_newest_first(log: Log, limit: int) -> None:
    ids = all_pages(log, limit, Filters())
    times = {record.id: record.timestamp_ms for column in log.values() for record in column}

    assert sorted(ids) == sorted(times)
    assert [times[i] for i in ids] == sorted(times.values(), reverse=True)


@given(LOGS, st.integers(1, 12), st.integers(1, 50))
def test_a_filter_leaves_out_exactly_what_does_not_match(log: Log, limit: int, max_scanned: int) -> None:
    ids = all_pages(log, limit, Filters(reason="worse"), max_scanned)

    assert sorted(ids) == sorted(record.id for column in log.values() for record in column if record.reason == "worse")


@given(LOGS)
def test_records_that_arrive_between_pages_do_not_shift_the_rest(log: Log) -> None:
    before = {record.id for column in log.values() for record in column}
    first, below = page(log, {}, 5, Filters())
    for number, column in log.items():
        column.append(letter(number, len(column), 10_000))
    rest = first
    while below is not None:
        more, below = page(log, below, 5, Filters())
        rest = rest + more

    assert sorted(rest) == sorted(before)


def test_a_full_last_page_has_no_cursor() -> None:
    assert page({0: [letter(0, 0, 1)]}, {}, 1, Filters())[1] is None


@pytest.mark.parametrize("text", ["", "x", "!!!", encode_cursor("other", {0: 1}), "AAAA", "é"])
def test_a_cursor_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery, match="cursor"):
        decode_cursor("q", text)


@pytest.mark.parametrize(
    ("filters", "matches"),
    [
        (Filters(), True),
        (Filters(reason="bad"), True),
        (Filters(reason="worse"), False),
        (Filters(stage="decode"), False),
        (Filters(key=b"user-1"), True),
        (Filters(key=b"user-2"), False),
        (Filters(failed_after_ms=100), True),
        (Filters(failed_after_ms=101), False),
        (Filters(failed_before_ms=100), False),
        (Filters(failed_before_ms=101), True),
    ],
)
def test_a_record_must_match_all_that_is_set(filters: Filters, matches: bool) -> None:
    assert filters.match(letter(0, 0, 100)) is matches

"""The index of dead letters: always what its topics hold up to its positions, and every question answered as by looking at each."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.dead_letters.api import DeadLetterRecord, Filters, InvalidQuery
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.schema import ID_BITS
from app.dead_letters.index.states import GroupNote, LetterState, encode_state, group_key, letter_key
from app.dead_letters.index.writing import IndexWriter
from app.dead_letters.lineage import Origin
from tests.dead_letters.letters import QUEUE, letter
from tests.dead_letters.records import FAILED_AT_MS, FakeRecord

STATES = "dlq.veltrix.state"
OTHER = "dlq.veltrix.item-activity"


class Index:
    """A writer and a reader of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer = IndexWriter(path)
        self.reader = IndexReader(path)

    def add(self, *letters: DeadLetterRecord) -> int:
        ends = {(one.topic, one.partition): one.offset + 1 for one in sorted(letters, key=lambda one: one.offset)}
        return self.writer.add(letters, ends)

    def fold(self, *changes: tuple[bytes, bytes | None]) -> None:
        self.writer.fold(
            [FakeRecord(STATES, 0, n, key, value) for n, (key, value) in enumerate(changes)], {(STATES, 0): len(changes)}
        )

    def ids(self, filters: Filters | None = None, limit: int = 50, *, oldest_first: bool = False) -> list[str]:
        """All pages together."""
        found, cursor = list[str](), None
        while True:
            page = self.reader.page(QUEUE, limit, cursor, filters or Filters(), oldest_first=oldest_first)
            found += [record.id for record in page.records]
            cursor = page.next_cursor
            if cursor is None:
                return found

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@contextmanager
def opened() -> Iterator[Index]:
    with TemporaryDirectory() as directory:
        one = Index(Path(directory) / "index.sqlite")
        yield one
        one.close()


@pytest.fixture
def index() -> Iterator[Index]:
    with opened() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Index]:
    with opened() as one:
        yield one


# -- pages --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_pages_are_in_order_of_failure_and_neither_overlap_nor_skip(index: Index, limit: int, oldest_first: bool) -> None:
    letters = [letter(n, partition=p, at_ms=FAILED_AT_MS + 10 * n + p) for n in range(5) for p in (0, 1)]
    index.add(*letters[5:])
    index.add(*letters[:5])

    newest = [one.id for one in sorted(letters, key=lambda one: -one.timestamp_ms)]
    assert index.ids(limit=limit, oldest_first=oldest_first) == (newest[::-1] if oldest_first else newest)


def test_what_fails_in_one_millisecond_is_told_apart(index: Index) -> None:
    index.add(*[letter(n) for n in range(50)])
    index.add(*[letter(n, partition=1) for n in range(50)])
    assert len(set(index.ids(limit=7))) == 100


def test_a_row_tells_what_the_record_told_but_for_value_and_headers(index: Index) -> None:
    original = letter(3, value=b'{"a":1}')
    index.add(original)
    (found,) = index.reader.page(QUEUE, 1, None, Filters()).records
    expected = replace(
        original, value=None, value_bytes=7, headers=(), group=None, stacktrace=None, attempts=(), edited=None, status="pending"
    )
    assert found == expected


@pytest.mark.parametrize("cursor", ["", "x", "!!!", "AAAAAAAA", "_" * 11, "ü"])
def test_what_is_no_cursor_is_refused(index: Index, cursor: str) -> None:
    with pytest.raises(InvalidQuery):
        index.reader.page(QUEUE, 1, cursor, Filters())


LETTERS = st.lists(
    st.builds(
        lambda n, partition, reason, user, version, at: replace(
            letter(n, partition=partition, reason=reason, key=user, value=b"event of " + user, at_ms=FAILED_AT_MS + at), app_version=version
        ),
        st.integers(0, 40), st.integers(0, 2), st.sampled_from(["bad_json", "too_old"]), st.sampled_from([b"u-1", b"u-2", b"\xff"]),
        st.sampled_from(["1.0", "1.1"]), st.integers(0, 3),
    ),
    max_size=25,
    unique_by=lambda one: (one.partition, one.offset),
)  # fmt: skip
FILTERS = st.builds(
    Filters,
    reason=st.none() | st.sampled_from(["bad_json", "too_old", "never"]),
    key=st.none() | st.sampled_from([b"u-1", b"\xff"]),
    app_version=st.none() | st.sampled_from(["1.0", "1.1"]),
    disposition=st.none() | st.just("invalid"),
    failed_after_ms=st.none() | st.integers(FAILED_AT_MS, FAILED_AT_MS + 4),
    failed_before_ms=st.none() | st.integers(FAILED_AT_MS, FAILED_AT_MS + 4),
    query=st.none() | st.sampled_from(["u-1", "event U-2", "ev*", "nothing", "bad_json"]),
)


def says(one: DeadLetterRecord, query: str | None) -> bool:
    text = f"{one.key!r} {one.message} {one.reason} {(one.value or b'')!r}".lower()
    return query is None or all(word.rstrip("*").lower() in text for word in query.split())


EACH = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@EACH
@given(letters=LETTERS, wanted=FILTERS, discarded=st.integers(0, 24), status=st.none() | st.sampled_from(["pending", "discarded"]))
def test_every_filter_finds_what_looking_at_each_letter_finds(
    index: Index, letters: Sequence[DeadLetterRecord], wanted: Filters, discarded: int, status: str | None
) -> None:
    index.writer.forget_topic(QUEUE)
    index.add(*letters)
    gone = {one.id for one in letters[:discarded]}
    index.fold(*[(one.encode(), encode_state(LetterState("discarded"))) for one in gone])
    found = index.ids(replace(wanted, status=status), limit=4)
    plain = replace(wanted, query=None)
    looked_at = [one for one in letters if status is None or (one.id in gone) == (status == "discarded")]
    expected = [one.id for one in looked_at if plain.match(one) and says(one, wanted.query)]
    assert sorted(found) == sorted(expected)
    assert index.reader.count(QUEUE, replace(wanted, status=status)) == len(expected)


@pytest.mark.parametrize("query", ["", " ", "!?", "*", '"', "("])
def test_a_search_without_a_word_is_refused(index: Index, query: str) -> None:
    with pytest.raises(InvalidQuery):
        index.reader.page(QUEUE, 1, None, Filters(query=query))


@pytest.mark.parametrize("query", ['" OR 1', "NEAR(a b)", "a:b", "body:x", "a AND", "x'; DROP TABLE letters; --", "AND", "NOT a"])
def test_no_text_is_an_expression_of_the_search_engine(index: Index, query: str) -> None:
    index.add(letter(0))
    assert index.reader.page(QUEUE, 1, None, Filters(query=query)).records == ()


@pytest.mark.parametrize("query", ["jane@example.org", "m-77", "sku-1", "Viewed product", "user-9*", "JANE@EXAMPLE.ORG"])
def test_ids_and_addresses_are_single_words(index: Index, query: str) -> None:
    value = b'{"messageId":"m-77","email":"jane@example.org","event":"Product Viewed","properties":{"product_id":"sku-1"}}'
    index.add(letter(0, value=value, key=b"user-99"), letter(1, value=b'{"messageId":"m-778"}', key=b"user-8"))
    assert index.ids(Filters(query=query)) == [f"{QUEUE}:0:0"]


# -- states -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_state_first", [False, True])
def test_a_state_counts_whether_it_is_read_before_or_after_its_letter(index: Index, is_state_first: bool) -> None:
    if not is_state_first:
        index.add(letter(0), letter(1))
    index.fold((letter_key(QUEUE, 0, 1), encode_state(LetterState("discarded", "ann"))))
    if is_state_first:
        index.add(letter(0), letter(1))

    assert index.ids(Filters(status="discarded")) == [f"{QUEUE}:0:1"]
    assert index.ids(Filters(status="pending")) == [f"{QUEUE}:0:0"]
    assert index.reader.statuses(QUEUE) == {"pending": 1, "discarded": 1}
    state = index.reader.state(Origin(QUEUE, 0, 1))
    assert state is not None
    assert (state.status, state.by) == ("discarded", "ann")
    assert index.reader.state(Origin(QUEUE, 0, 0)) is None


def test_a_state_that_is_taken_back_leaves_the_letter_pending(index: Index) -> None:
    index.add(letter(0))
    index.fold((letter_key(QUEUE, 0, 0), encode_state(LetterState("discarded"))), (letter_key(QUEUE, 0, 0), None))
    assert (index.reader.statuses(QUEUE), index.ids(Filters(status="pending"))) == ({"pending": 1}, [f"{QUEUE}:0:0"])


@pytest.mark.parametrize(
    ("key", "value"), [(b"x", b"{}"), (None, None), (b"a:b:c", b"{}"), (f"{QUEUE}:0:0".encode(), b"not json"), (b"group:", b"{}")]
)
def test_foreign_records_in_the_state_topic_change_nothing(index: Index, key: bytes | None, value: bytes | None) -> None:
    index.add(letter(0))
    index.writer.fold([FakeRecord(STATES, 0, 0, key, value)], {(STATES, 0): 1})
    assert index.reader.statuses(QUEUE) == {"pending": 1}
    assert index.reader.positions()[STATES, 0] == 1


# -- groups -------------------------------------------------------------------------------------------


def test_many_letters_are_few_groups_the_largest_first(index: Index) -> None:
    index.add(*[replace(letter(n, reason="too_old", at_ms=FAILED_AT_MS + n), app_version=f"1.{n}") for n in range(3)])
    index.add(*[letter(n, partition=1) for n in range(20)], replace(letter(0, partition=2, reason="too_old"), app_version="0.9"))
    index.fold((letter_key(QUEUE, 1, 4), encode_state(LetterState("discarded"))))
    large, small = index.reader.groups(QUEUE)

    assert (large.reason, large.count, large.counts) == ("bad_json", 20, {"pending": 19, "discarded": 1})
    assert (small.reason, small.count, small.first_version, small.sample) == ("too_old", 4, "1.0", f"{QUEUE}:0:2")
    assert (small.first_failed_at_ms, small.last_failed_at_ms) == (FAILED_AT_MS, FAILED_AT_MS + 2)
    assert [group.reason for group in index.reader.groups(QUEUE, "discarded")] == ["bad_json"]
    assert index.reader.groups(OTHER) == []


def test_what_people_noted_stays_with_the_group(index: Index) -> None:
    index.add(letter(0))
    (group,) = index.reader.groups(QUEUE)
    index.fold((group_key(QUEUE, group.fingerprint), encode_state(GroupNote("known", "team-a", "2026-12-01T00:00:00.000Z"))))
    (noted,) = index.reader.groups(QUEUE)
    assert (noted.note, noted.owner, noted.muted_until) == ("known", "team-a", "2026-12-01T00:00:00.000Z")
    index.fold((group_key(QUEUE, group.fingerprint), None))
    assert index.reader.groups(QUEUE) == [group]


def test_numbers_per_queue(index: Index) -> None:
    index.add(*[letter(n, at_ms=FAILED_AT_MS + 1000 * n) for n in range(4)], replace(letter(9), topic=OTHER))
    index.fold((letter_key(QUEUE, 0, 0), encode_state(LetterState("discarded"))))
    assert index.reader.oldest_ms(QUEUE, "pending") == FAILED_AT_MS + 1000
    assert index.reader.oldest_ms(QUEUE, "replayed") is None
    assert (index.reader.since(QUEUE, FAILED_AT_MS + 2000), index.reader.since(QUEUE, -5)) == (2, 4)


# -- keeping up with Kafka ----------------------------------------------------------------------------


def everything(path: Path) -> dict[str, object]:
    """All that the index says, whatever the ids of its rows."""
    with sqlite3.connect(path) as db:
        letters = sorted(db.execute("SELECT queue, partition, offset, status, fingerprint, id >> ? FROM letters", (ID_BITS,)))
        words = Counter(body for (body,) in db.execute("SELECT body FROM texts"))
        rest = {table: sorted(db.execute(f"SELECT * FROM {table}")) for table in ("counts", "states", "positions")}
        groups = sorted(db.execute("SELECT queue, fingerprint, first_ms, last_ms, message FROM groups"))
    return rest | {"letters": letters, "words": words, "groups": groups}


def test_what_is_read_again_changes_nothing(index: Index, other: Index) -> None:
    letters = [letter(n, at_ms=FAILED_AT_MS + n) for n in range(10)]
    assert index.add(*letters[:6]) == 6
    assert index.add(*letters[3:]) == 4
    other.add(*letters)
    assert everything(index.path) == everything(other.path)


def test_a_batch_that_fails_leaves_nothing_behind(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add(letter(0))
    before = everything(index.path)

    def full_disk(positions: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(index.writer, "_move_on", full_disk)
    with pytest.raises(sqlite3.OperationalError):
        index.add(letter(1), letter(2, reason="too_old"))
    assert everything(index.path) == before


def test_it_goes_on_where_it_was_after_a_restart(index: Index) -> None:
    index.add(*[letter(n) for n in range(3)])
    index.writer.close()
    index.writer = IndexWriter(index.path)
    assert index.writer.positions() == {(QUEUE, 0): 3}
    assert index.add(letter(3)) == 1
    assert index.ids() == [f"{QUEUE}:0:{n}" for n in (3, 2, 1, 0)]


@EACH
@given(letters=LETTERS, begin=st.integers(0, 45), discarded=st.integers(0, 10))
def test_what_retention_took_is_as_if_it_had_never_been(
    index: Index, other: Index, letters: list[DeadLetterRecord], begin: int, discarded: int
) -> None:
    for one in (index, other):
        one.writer.forget_topic(QUEUE)
    letters.sort(key=lambda one: one.offset)
    states = [(one.id.encode(), encode_state(LetterState("discarded"))) for one in letters[:discarded]]
    left = [one for one in letters if one.partition != 1 or one.offset >= begin]
    kept = [state for state, one in zip(states, letters, strict=False) if one in left]
    index.add(*letters)
    index.fold(*states)
    assert index.writer.drop_below(QUEUE, 1, begin) == len(letters) - len(left)
    other.add(*left)
    other.fold(*kept)
    ours, theirs = everything(index.path), everything(other.path)
    assert all(ours[what] == theirs[what] for what in ("letters", "words", "counts", "states"))


def test_a_topic_that_was_made_again_is_forgotten(index: Index) -> None:
    index.add(letter(0), replace(letter(5), topic=OTHER))
    index.writer.remember_ids({QUEUE: b"1" * 16, OTHER: b"2" * 16})
    index.writer.forget_topic(QUEUE)
    assert (index.ids(), index.reader.groups(QUEUE), index.writer.positions()) == ([], [], {(OTHER, 0): 6})
    assert len(index.reader.groups(OTHER)) == 1
    assert index.writer.topic_ids() == {OTHER: b"2" * 16}


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100])
def test_a_file_that_is_damaged_or_of_another_version_is_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deep" / "index.sqlite"
    path.parent.mkdir()
    path.write_bytes(content)
    writer = IndexWriter(path)
    assert writer.positions() == {}
    assert writer.add([letter(0)], {(QUEUE, 0): 1}) == 1
    writer.close()

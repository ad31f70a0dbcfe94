"""Remembering ids: policy, head, chunks, and the index over closed chunks."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.closed_ids import ClosedIds, ClosedIdsCache, MissingChunkError
from app.domain.dedupe import (
    CHUNK_IDS,
    Chunk,
    DedupePolicy,
    Recent,
    chunk_key,
    close_head,
    digest_of,
    expire_first,
    in_ids,
    is_expired,
)


def chunk(number: int, newest_ms: int = 0) -> Chunk:
    return Chunk(1, newest_ms, hashlib.shake_128(b"%d" % number).digest(128))


def ids_of(part: Chunk) -> list[bytes]:
    return [part.ids[at : at + 8] for at in range(0, len(part.ids), 8)]


def test_digests_are_eight_bytes_and_stay_the_same_over_releases() -> None:
    assert digest_of("m-1").hex() == "1dc73f47c0140d66"
    assert len(digest_of("")) == len(digest_of("ä" * 600)) == 8


def test_an_id_is_found_only_at_its_place() -> None:
    first, second = b"abcdefgh", b"ijklmnop"
    assert in_ids(first, first + second)
    assert in_ids(second, first + second)
    assert not in_ids(b"efghijkl", first + second)  # the end of one and the start of the next
    assert not in_ids(first, b"")
    assert in_ids(b"aaaaaaaa", b"baaaaaaa" + b"aaaaaaaa")  # found askew first, then at its place


@pytest.mark.parametrize(("min_ids", "max_ids"), [(16, 31), (17, 47), (1024, 4096), (1, 31)])
def test_bounds_that_whole_chunks_can_keep_are_accepted(min_ids: int, max_ids: int) -> None:
    policy = DedupePolicy(min_ids, max_ids, 0)
    assert min_ids <= policy.max_chunks * CHUNK_IDS <= max_ids - CHUNK_IDS + 1


@pytest.mark.parametrize(("min_ids", "max_ids"), [(16, 16), (16, 30), (17, 46), (1024, 1030), (100, 50)])
def test_bounds_that_whole_chunks_cannot_keep_are_refused_with_the_least_that_works(min_ids: int, max_ids: int) -> None:
    with pytest.raises(ValueError, match="too close") as caught:
        DedupePolicy(min_ids, max_ids, 0)
    least = int(str(caught.value).rsplit(" ", 1)[1])
    assert DedupePolicy(min_ids, least, 0).max_chunks * CHUNK_IDS >= min_ids
    with pytest.raises(ValueError, match="too close"):
        DedupePolicy(min_ids, least - 1, 0)


def test_closing_moves_the_head_into_a_chunk_and_links_it() -> None:
    ids = chunk(1).ids
    closed, part = close_head(Recent(ids, 2, 5, 77), 1000)
    assert part == Chunk(1, 1000, ids)
    assert (closed.head, closed.first, closed.next) == (b"", 2, 6)
    again, _ = close_head(Recent(ids, 2, 5, 77), 1000)
    assert again.chain == closed.chain


def test_the_chain_differs_with_history_ids_and_times() -> None:
    ids, other = chunk(1).ids, chunk(2).ids
    variants = [(ids, 77, 1000), (other, 77, 1000), (ids, 78, 1000), (ids, 77, 1001)]
    assert len({close_head(Recent(head, 0, 0, chain), newest)[0].chain for head, chain, newest in variants}) == 4


@pytest.mark.parametrize(
    ("chunks", "age_ms", "expired"),
    [
        (4, 101, False),  # old, but needed for min_ids
        (5, 100, False),  # enough remain, but exactly min_age_ms old
        (5, 101, True),
        (7, 0, False),  # young, and the bound is kept
        (8, 0, True),  # young, but beyond the bound
    ],
)
def test_the_oldest_chunk_expires_by_age_beyond_min_ids_and_always_beyond_max_ids(chunks: int, age_ms: int, expired: bool) -> None:
    policy = DedupePolicy(min_ids=64, max_ids=127, min_age_ms=100)
    assert is_expired(Recent(b"", 3, 3 + chunks), chunk(1, newest_ms=1000), 1000 + age_ms, policy) is expired


def test_expiring_forgets_the_first_number_only() -> None:
    assert expire_first(Recent(b"x", 3, 9, 5)) == Recent(b"x", 4, 9, 5)


def test_chunk_keys_of_different_users_never_meet() -> None:
    assert len({chunk_key(user, n) for user in ("u:a", "u:a/1", "u:a/1/1", "u:a/") for n in (1, 11)}) == 8


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 12))
def test_the_index_holds_exactly_the_chunks_ids(start: int, appended: int, expired: int) -> None:
    index, model = ClosedIds(map(chunk, range(start))), [chunk(n) for n in range(start)]
    for n in range(start, start + appended):
        index.append(chunk(n))
        model.append(chunk(n))
    for _ in range(min(expired, len(model))):
        index.expire_first()
        model.pop(0)

    held = {digest for part in model for digest in ids_of(part)}
    assert index.chunks == model
    assert len(index) == len(held)
    assert all((digest in index) == (digest in held) for n in range(14) for digest in ids_of(chunk(n)))


def test_the_cache_reads_once_and_then_answers_from_memory() -> None:
    cache, stored = ClosedIdsCache(1000), {chunk_key("u:1", n): chunk(n) for n in (1, 2)}
    recents = {"u:1": Recent(b"", 1, 3, 77), "u:2": Recent(b"12345678")}
    taken = cache.take(recents, lambda keys: {key: stored[key] for key in keys})
    assert list(taken) == ["u:1"]
    assert taken["u:1"].chunks == [chunk(1), chunk(2)]
    cache.give_back(recents["u:1"], taken["u:1"])
    assert (len(cache), cache.ids) == (1, 32)

    def never(keys: object) -> dict[str, Chunk]:
        raise AssertionError(keys)

    assert cache.take(recents, never)["u:1"] is taken["u:1"]
    assert (len(cache), cache.ids) == (0, 0)


def test_an_entry_is_not_handed_out_under_another_history() -> None:
    cache, reads = ClosedIdsCache(1000), []

    def read(keys: object) -> dict[str, Chunk]:
        reads.append(list(keys))  # type: ignore[call-overload]
        return {key: chunk(9) for key in reads[-1]}

    cache.give_back(Recent(b"", 0, 1, 77), ClosedIds([chunk(1)]))
    other = cache.take({"u:1": Recent(b"", 0, 1, 78), "u:2": Recent(b"", 1, 2, 77)}, read)
    assert reads == [["u:1/0", "u:2/1"]]
    assert other["u:1"].chunks == [chunk(9)]


def test_the_cache_forgets_the_least_recently_used_beyond_its_bound() -> None:
    cache = ClosedIdsCache(max_ids=40)
    for chain in (1, 2, 3):
        cache.give_back(Recent(b"", 0, 1, chain), ClosedIds([chunk(chain)]))
    assert (len(cache), cache.ids) == (2, 32)
    assert cache.take({"u": Recent(b"", 0, 1, 3)}, lambda keys: {})["u"].chunks == [chunk(3)]
    with pytest.raises(MissingChunkError) as caught:
        cache.take({"u": Recent(b"", 0, 1, 1)}, lambda keys: {})
    assert caught.value.key == "u/0"


def test_giving_back_under_a_name_that_is_held_counts_once() -> None:
    cache = ClosedIdsCache(1000)
    for _ in range(2):
        cache.give_back(Recent(b"", 0, 1, 1), ClosedIds([chunk(1)]))
    assert (len(cache), cache.ids) == (1, 16)

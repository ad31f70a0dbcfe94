"""Laws of de-duplication and of folding a stream in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.closed_ids import ClosedIdsCache
from app.domain.dedupe import CHUNK_IDS, Chunk, DedupePolicy, digest_of
from app.domain.events import Event, Interaction
from app.domain.fold import BatchFold
from app.domain.profiles import UserProfile, decode_profile

POLICY = DedupePolicy(min_ids=32, max_ids=79, min_age_ms=1000)
Seen = tuple[str, str, int]  # user, message id, received ms

encode = msgspec.msgpack.Encoder().encode
decode_chunk = msgspec.msgpack.Decoder(Chunk).decode


class Table:
    """State between batches, encoded, as a table holds it; a cache of 0 ids forgets all, so every batch reads."""

    def __init__(self, policy: DedupePolicy = POLICY, cached_ids: int = 10_000) -> None:
        self.policy = policy
        self.profiles: dict[str, bytes] = {}
        self.chunks: dict[str, bytes] = {}
        self.cache = ClosedIdsCache(cached_ids)

    def batch(self, seen: Iterable[Seen]) -> list[int | None]:
        interactions = [(Interaction(Event(type="page"), f"u:{user}", digest_of(mid), ms, ()), ms) for user, mid, ms in seen]
        stored = {key: decode_profile(self.profiles[key]) for key in {i.user_key for i, _ in interactions} & self.profiles.keys()}
        fold = BatchFold(self.policy, stored, self.cache.take({k: p.recent for k, p in stored.items()}, self.read))
        outputs = [fold.add(interaction, received_ms) for interaction, received_ms in interactions]
        fold.give_back(self.cache)
        self.profiles |= {key: encode(profile) for key, profile in fold.profiles.items()}
        for key, chunk in fold.chunks.items():
            if chunk is None:
                self.chunks.pop(key, None)
            else:
                assert key not in self.chunks, "a chunk is immutable once written"
                self.chunks[key] = encode(chunk)
        return outputs

    def read(self, keys: Iterable[str]) -> dict[str, Chunk]:
        return {key: decode_chunk(self.chunks[key]) for key in keys}

    def profile(self, user: str) -> UserProfile:
        return decode_profile(self.profiles[f"u:{user}"])

    def remembered(self, user: str) -> int:
        recent = self.profile(user).recent
        return recent.closed_chunks * CHUNK_IDS + len(recent.head) // 8


users = st.sampled_from("ab")
#: Few ids, so that repeats are frequent; enough of them to close and expire chunks.
streams = st.lists(st.tuples(users, st.integers(0, 150).map(str), st.integers(0, 3000)), max_size=250)


def batches(stream: Sequence[Seen], cuts: Iterable[int]) -> list[Sequence[Seen]]:
    edges = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    return [stream[a:b] for a, b in pairwise(edges)]


@given(st.data(), st.integers(1, POLICY.min_ids))
def test_within_the_horizon_every_id_passes_exactly_once_in_any_order(data: st.DataObject, distinct: int) -> None:
    ids = [str(n) for n in range(distinct)]
    order = data.draw(st.permutations(ids + data.draw(st.lists(st.sampled_from(ids), max_size=40))))
    table = Table()

    outputs = [table.batch([("a", mid, 0)])[0] for mid in order]

    passed = [mid for mid, output in zip(order, outputs, strict=True) if output is not None]
    assert passed == list(dict.fromkeys(order))
    assert [output for output in outputs if output is not None] == list(range(1, distinct + 1))
    assert table.profile("a").sequence == distinct


@given(streams)
def test_each_users_sequence_counts_from_one_without_a_gap(stream: list[Seen]) -> None:
    outputs = Table().batch(stream)
    for user in "ab":
        mine = [output for seen, output in zip(stream, outputs, strict=True) if seen[0] == user and output is not None]
        assert mine == list(range(1, len(mine) + 1))


@settings(max_examples=60)
@given(streams, st.lists(st.integers(0, 250), max_size=8), st.sampled_from([0, 20, 10_000]))
def test_splitting_a_stream_anywhere_gives_the_same_outputs_and_state(stream: list[Seen], cuts: list[int], cached_ids: int) -> None:
    whole, split = Table(), Table(cached_ids=cached_ids)

    expected = whole.batch(stream)
    outputs = [output for part in batches(stream, cuts) for output in split.batch(part)]

    assert outputs == expected
    assert (split.profiles, split.chunks) == (whole.profiles, whole.chunks)


@settings(max_examples=60)
@given(streams)
def test_the_horizon_holds_its_promises_at_every_step(stream: list[Seen]) -> None:
    table = Table()
    passed: dict[str, list[tuple[str, int]]] = {"a": [], "b": []}
    for user, mid, received_ms in stream:
        [output] = table.batch([(user, mid, received_ms)])
        must_remember = {mid for mid, _ in passed[user][-POLICY.min_ids :]}
        may_remember = {mid for mid, _ in passed[user][-POLICY.max_ids :]}
        assert (output is None) or mid not in must_remember
        assert (output is not None) or mid in may_remember
        if output is not None:
            passed[user].append((mid, received_ms))
        assert table.remembered(user) <= POLICY.max_ids


def test_between_both_bounds_an_id_is_remembered_while_it_is_young() -> None:
    young, old = Table(), Table()
    for n in range(70):
        young.batch([("a", f"m{n}", 100 + n)])
        old.batch([("a", f"m{n}", 100 + n * 100)])

    assert young.batch([("a", "m0", 300)]) == [None]
    assert old.batch([("a", "m0", 7100)]) == [71]
    assert old.batch([("a", f"m{70 - POLICY.min_ids}", 7100)]) == [None]


def test_a_duplicate_older_than_the_horizon_passes_as_a_new_event() -> None:
    table = Table()
    assert table.batch([("a", f"m{n}", 0) for n in range(POLICY.max_ids + 1)])[-1] == POLICY.max_ids + 1
    assert table.batch([("a", "m0", 0)]) == [POLICY.max_ids + 2]
    assert table.batch([("a", "m0", 0)]) == [None]


def test_a_silent_user_forgets_nothing() -> None:
    table = Table()
    table.batch([("a", f"m{n}", 0) for n in range(60)])
    assert table.batch([("a", "m0", 10**12)]) == [None]


def test_a_chunk_is_as_young_as_its_youngest_id_whichever_record_closes_it() -> None:
    table = Table()
    table.batch([("a", "m0", 5000), *(("a", f"m{n}", 0) for n in range(1, 60))])
    table.batch([("a", f"later{n}", 5900) for n in range(10)])
    assert table.batch([("a", "m0", 5900)]) == [None]


def test_a_record_from_the_future_does_not_make_others_forget() -> None:
    table = Table()
    table.batch([("a", "m0", 0), ("a", "far", 10**13), *(("a", f"m{n}", n) for n in range(1, 70))])
    assert table.batch([("a", "m0", 100)]) == [None]


def test_a_duplicate_changes_nothing() -> None:
    table = Table()
    table.batch([("a", f"m{n}", n) for n in range(40)])
    before = (dict(table.profiles), dict(table.chunks))
    assert table.batch([("a", f"m{n}", 900) for n in range(40)]) == [None] * 40
    assert (table.profiles, table.chunks) == before


def test_users_do_not_share_ids() -> None:
    assert Table().batch([("a", "m", 0), ("b", "m", 0), ("a", "m", 0)]) == [1, 1, None]


@pytest.mark.parametrize("size", [1, 7, 500])
def test_expired_chunks_leave_the_table(size: int) -> None:
    table = Table()
    stream = [("a", f"m{n}", 0) for n in range(500)]
    for at in range(0, len(stream), size):
        table.batch(stream[at : at + size])
    recent = table.profile("a").recent
    assert set(table.chunks) == {f"u:a/{n}" for n in range(recent.first, recent.next)}
    assert len(table.chunks) == POLICY.max_chunks

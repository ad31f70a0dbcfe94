"""What any lookup store must do: run against the fake one and against a real Redis."""

from __future__ import annotations

from app.lookups.keys import Cover, pack_head, rebuild_token, unpack_value
from app.lookups.lane import plan
from app.lookups.script import LookupStore
from tests.lookups.fakes import KEYS

EMPTY = b""
A, B = (KEYS.of(b"pu:a") or b""), (KEYS.of(b"pu:b") or b"")


def at(position: int) -> bytes:
    return Cover(position, 1_700_000_000_000).pack()


async def write(store: LookupStore, expected: bytes, new: bytes, stamp: int, writes: dict[bytes, bytes | None]) -> bool:
    """Whether every call of one unit was applied."""
    return all(await store.apply(plan(KEYS.cover, expected, new, pack_head(stamp, 7), writes)))


class StoreContract:
    """Subclasses give the fixture ``store``, an empty store."""

    async def held(self, store: LookupStore, key: bytes) -> tuple[int, int, bytes] | None:
        """Stamp, source offset and value, read as a reader does. (``covers`` reads any key.)"""
        (raw,) = await store.covers([key])
        return None if raw is None else unpack_value(raw)

    async def test_a_write_on_the_expected_cover_is_applied_and_moves_it(self, store: LookupStore) -> None:
        await store.prepare()

        assert await write(store, EMPTY, at(5), 5, {A: b"1", B: b"\x00\xff"})
        assert await store.covers([KEYS.cover]) == [at(5)]
        assert await self.held(store, A) == (5, 7, b"1")
        assert await self.held(store, B) == (5, 7, b"\x00\xff")

    async def test_a_write_on_any_other_cover_changes_nothing(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {A: b"1"})

        assert not await write(store, at(4), at(9), 9, {A: b"2", B: None})
        assert not await write(store, EMPTY, at(9), 9, {A: b"2"})
        assert await store.covers([KEYS.cover]) == [at(5)]
        assert await self.held(store, A) == (5, 7, b"1")

    async def test_an_absent_cover_is_a_gap(self, store: LookupStore) -> None:
        await store.prepare()

        assert not await write(store, at(5), at(6), 6, {A: b"1"})
        assert await store.covers([KEYS.cover, A]) == [None, None]

    async def test_a_lower_stamp_never_overwrites_or_deletes_a_higher_one(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(300), 300, {A: b"new", B: b"new"})

        assert await write(store, at(300), at(301), 255, {A: b"old", B: None})
        assert await self.held(store, A) == (300, 7, b"new")
        assert await self.held(store, B) == (300, 7, b"new")

    async def test_stamps_are_compared_as_numbers(self, store: LookupStore) -> None:
        await store.prepare()
        stamps = [-1, 0, 9, 10, 127, 128, 255, 256, 65_535, 2**31, 2**40 + 1, 2**52]
        for before, stamp in zip([None, *stamps], stamps, strict=False):
            expected = EMPTY if before is None else at(before)
            assert await write(store, expected, at(stamp), stamp, {A: b"%d" % stamp})
            assert await self.held(store, A) == (stamp, 7, b"%d" % stamp)

    async def test_the_same_stamp_may_write_again(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {A: b"1"})
        await write(store, at(5), at(5), 5, {A: b"2"})

        assert await self.held(store, A) == (5, 7, b"2")

    async def test_a_delete_removes_and_stays_removed(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {A: b"1", B: b"1"})
        await write(store, at(5), at(6), 6, {A: None, B: b"2"})
        assert not await write(store, at(4), at(5), 5, {A: b"1"})

        assert await self.held(store, A) is None
        assert await self.held(store, B) == (6, 7, b"2")

    async def test_a_large_unit_is_applied_whole(self, store: LookupStore) -> None:
        await store.prepare()
        writes: dict[bytes, bytes | None] = {KEYS.of(b"pu:%d" % n) or b"": b"%d" % n for n in range(2700)}

        assert await write(store, EMPTY, at(5), 5, writes)
        assert await store.covers([KEYS.cover]) == [at(5)]
        assert await self.held(store, KEYS.of(b"pu:2699") or b"") == (5, 7, b"2699")

    async def test_a_step_of_a_large_unit_needs_the_one_before(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {})
        writes: dict[bytes, bytes | None] = {KEYS.of(b"pu:%d" % n) or b"": b"x" for n in range(1200)}
        calls = plan(KEYS.cover, at(5), at(6), pack_head(6, 7), writes)

        assert await store.apply(calls[1:]) == [False, False]
        assert await store.covers([KEYS.cover]) == [at(5)]

    async def test_taking_over_fences_everybody_else_and_empties_the_lane_alone(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {A: b"1", B: b"2"})
        other = KEYS.cover.replace(b"-3}", b"-30}")
        calls = plan(other, EMPTY, at(1), pack_head(1, 1), {A.replace(b"-3}", b"-30}"): b"1"})
        assert await store.apply(calls) == [True]
        token = rebuild_token()
        await store.take_over(KEYS.cover, token, KEYS.pattern)

        assert await store.covers([A, B, KEYS.cover]) == [None, None, token]
        assert await store.covers([other, A.replace(b"-3}", b"-30}")]) == [at(1), pack_head(1, 1) + b"1"]
        assert not await write(store, at(5), at(6), 6, {A: b"zombie"})
        assert await write(store, token, at(6), 6, {A: b"2"})

    async def test_an_empty_value_is_a_value(self, store: LookupStore) -> None:
        await store.prepare()
        await write(store, EMPTY, at(5), 5, {A: b"", B: None})

        assert await self.held(store, A) == (5, 7, b"")
        assert await self.held(store, B) is None

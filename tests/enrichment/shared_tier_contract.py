"""What any shared tier must do: run against the fake one and a real Redis."""

from __future__ import annotations

from app.enrichment.shared import SharedTier, Write

LONG_MS = 60_000
SHORT_MS = 40


class SharedTierContract:
    """Subclasses give the fixture ``tier``, an empty one, and ``pass_ms``."""

    async def pass_ms(self, milliseconds: int) -> None:
        raise NotImplementedError

    async def test_what_is_not_there_is_none_in_its_place(self, tier: SharedTier) -> None:
        assert await tier.lease(["b"], b"me", LONG_MS) == [True]
        await tier.finish(b"me", {"b": Write(b"\x00\xff", LONG_MS)})

        assert await tier.read(["a", "b", "c"]) == [None, b"\x00\xff", None]

    async def test_a_lease_is_given_once(self, tier: SharedTier) -> None:
        assert await tier.lease(["a"], b"me", LONG_MS) == [True]
        assert await tier.lease(["a", "b"], b"you", LONG_MS) == [False, True]

    async def test_only_the_holder_of_a_lease_writes(self, tier: SharedTier) -> None:
        await tier.lease(["a"], b"me", LONG_MS)
        await tier.finish(b"you", {"a": Write(b"yours", LONG_MS), "b": Write(b"yours", LONG_MS)})
        assert await tier.read(["a", "b"]) == [None, None]
        await tier.finish(b"me", {"a": Write(b"mine", LONG_MS)})

        assert await tier.read(["a"]) == [b"mine"]
        assert await tier.lease(["a"], b"you", LONG_MS) == [True]

    async def test_a_lease_given_up_leaves_the_row_as_it_was(self, tier: SharedTier) -> None:
        await tier.lease(["a"], b"me", LONG_MS)
        await tier.finish(b"me", {"a": Write(b"old", LONG_MS)})
        await tier.lease(["a"], b"me", LONG_MS)
        await tier.finish(b"me", {"a": None})

        assert await tier.read(["a"]) == [b"old"]
        assert await tier.lease(["a"], b"you", LONG_MS) == [True]

    async def test_an_invalidation_takes_the_row_and_the_right_to_write_it(self, tier: SharedTier) -> None:
        await tier.lease(["a", "b"], b"me", LONG_MS)
        await tier.finish(b"me", {"a": Write(b"old", LONG_MS)})
        await tier.lease(["a"], b"me", LONG_MS)
        await tier.forget(["a"])
        await tier.finish(b"me", {"a": Write(b"late", LONG_MS), "b": Write(b"fine", LONG_MS)})

        assert await tier.read(["a", "b"]) == [None, b"fine"]

    async def test_the_lease_of_whoever_came_after_an_invalidation_is_his(self, tier: SharedTier) -> None:
        await tier.lease(["a"], b"me", LONG_MS)
        await tier.forget(["a"])
        assert await tier.lease(["a"], b"you", LONG_MS) == [True]
        await tier.finish(b"me", {"a": Write(b"old", LONG_MS)})
        await tier.finish(b"you", {"a": Write(b"new", LONG_MS)})

        assert await tier.read(["a"]) == [b"new"]

    async def test_rows_and_leases_end_by_themselves(self, tier: SharedTier) -> None:
        await tier.lease(["a", "b"], b"me", LONG_MS)
        await tier.finish(b"me", {"a": Write(b"short", SHORT_MS)})
        await tier.lease(["c"], b"me", SHORT_MS)
        await self.pass_ms(SHORT_MS * 2)

        assert await tier.read(["a"]) == [None]
        assert await tier.lease(["c", "b"], b"you", LONG_MS) == [True, False]

    async def test_a_large_batch_is_written_whole(self, tier: SharedTier) -> None:
        keys = [f"k{n}" for n in range(1201)]
        assert all(await tier.lease(keys, b"me", LONG_MS))
        await tier.finish(b"me", {key: Write(key.encode(), LONG_MS) for key in keys})

        assert await tier.read(keys) == [key.encode() for key in keys]

    async def test_any_text_is_a_key(self, tier: SharedTier) -> None:
        keys = ["", "a b\r\n", "ünï©ode", "\0"]
        await tier.lease(keys, b"me", LONG_MS)
        await tier.finish(b"me", {key: Write(b"%d" % n, LONG_MS) for n, key in enumerate(keys)})

        assert await tier.read(keys) == [b"0", b"1", b"2", b"3"]
        await tier.ping()

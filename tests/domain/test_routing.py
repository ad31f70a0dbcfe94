"""murmur2 as Kafka computes it."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from app.domain.routing import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "expected"),
    [  # from Kafka's own UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_java_clients_vectors_hold(key: bytes, expected: int) -> None:
    assert murmur2(key) == expected & 0xFFFFFFFF


@given(st.binary(max_size=70))
def test_it_equals_the_python_clients_hash(key: bytes) -> None:
    assert murmur2(key) == reference(key)


@given(st.binary(max_size=40), st.integers(1, 100))
def test_the_partition_is_that_of_the_default_partitioner(key: bytes, partitions: int) -> None:
    everywhere = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, everywhere, everywhere)

"""Telling the reference cache by hand that rows have changed."""

from __future__ import annotations

import pytest
from aiokafka.errors import KafkaConnectionError

from app.enrichment.api import UnknownReference
from app.sidecar.references import MOST_KEYS, NoReferences
from tests.sidecar.conftest import Sidecar, assert_problem

PATH = "/api/v1/cache/invalidate"


async def test_rows_are_forgotten(sidecar: Sidecar) -> None:
    answer = await sidecar.post(PATH, {"table": "users", "keys": ["1", "2"]})
    assert (answer.status_code, answer.json()) == (200, {"table": "users", "keys": 2})
    assert sidecar.references.told == [("users", ["1", "2"])]


async def test_a_table_that_nobody_declared_is_a_404(sidecar: Sidecar) -> None:
    assert_problem(await sidecar.post(PATH, {"table": "orders", "keys": ["1"]}), 404, "unknown-reference")


async def test_a_worker_that_joins_nothing_knows_no_table() -> None:
    with pytest.raises(UnknownReference, match="declared are: none"):
        await NoReferences().invalidate("users", ["1"])


@pytest.mark.parametrize("keys", [[], [""], ["x"] * (MOST_KEYS + 1)], ids=["none", "empty", "too many"])
async def test_no_keys_and_too_many_are_refused(sidecar: Sidecar, keys: list[str]) -> None:
    assert_problem(await sidecar.post(PATH, {"table": "users", "keys": keys}), 422, "invalid-request")
    assert sidecar.references.told == []


async def test_without_kafka_it_says_that_the_others_do_not_know(sidecar: Sidecar) -> None:
    sidecar.references.failure = KafkaConnectionError("gone")
    body = assert_problem(await sidecar.post(PATH, {"table": "users", "keys": ["1"]}), 503, "kafka-unavailable")
    assert "Send it again" in body["detail"]

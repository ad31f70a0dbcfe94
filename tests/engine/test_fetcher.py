"""When the next fetch request goes out."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import aiokafka.consumer.consumer
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher

from app.engine import fetcher
from app.engine.fetcher import TURNS_TO_OUTPUTS, EngineFetcher

A, B = TopicPartition("source", 0), TopicPartition("changelog", 0)


class State:
    """One partition as aiokafka's subscription knows it."""

    position = 7

    def __init__(self, paused: bool) -> None:
        self.paused, self.has_valid_position = paused, True
        self.resume_fut: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Assignment:
    def __init__(self) -> None:
        self.states = {A: State(False), B: State(True)}
        self.tps = list(self.states)

    def state_value(self, tp: TopicPartition) -> State:
        return self.states[tp]


def new_fetcher(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fetcher without a client."""
    made: Any = EngineFetcher.__new__(EngineFetcher)
    made._records, made._in_flight, made._fetcher_timeout = OrderedDict(), set(), 0.2
    made._fetch_max_wait_ms = made._fetch_min_bytes = made._fetch_max_bytes = made._max_partition_fetch_bytes = 1
    made._isolation_level, made._client_rack = 0, None
    made._wait_consume_future = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(made, "_select_read_replica", lambda tp: 1)
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What fetch responses bring, one after another: records or none."""
    coming: list[bool] = []

    async def respond(*_: Any) -> bool:
        return coming.pop(0)

    monkeypatch.setattr(Fetcher, "_proc_fetch_request", respond)
    return coming


async def turns_until_done(future: asyncio.Future[Any]) -> int:
    turns = 0
    while not future.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


def fetch(one: Any) -> tuple[asyncio.Task[bool], asyncio.Future[None]]:
    """One fetch request, and somebody who waits for records."""
    waiter = asyncio.get_running_loop().create_future()
    one._fetch_waiters = {waiter}
    return asyncio.create_task(one._proc_fetch_request(None, 1, None)), waiter


async def handed_over(one: Any) -> asyncio.Task[bool]:
    """The fetch of a patient fetcher, in the moment in which who waited has its records."""
    one.is_patient = True
    asked, waiter = fetch(one)
    assert await turns_until_done(waiter) == 1
    return asked


async def test_a_fetcher_asks_for_more_at_once(monkeypatch: pytest.MonkeyPatch, answers: list[bool]) -> None:
    one, answers[:] = new_fetcher(monkeypatch), [True]
    asked, _ = fetch(one)
    assert await turns_until_done(asked) == 1
    assert asked.result()
    one._notify(one._wait_consume_future)
    assert one._wait_consume_future.done()


async def test_a_patient_fetcher_hands_over_at_once_and_asks_when_the_outputs_are_out(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    one, answers[:] = new_fetcher(monkeypatch), [True]
    asked = await handed_over(one)
    one._notify(one._wait_consume_future)  # the consumer has taken the records
    assert not one._wait_consume_future.done()
    assert await turns_until_done(asked) == TURNS_TO_OUTPUTS
    assert asked.result()
    one._notify(one._wait_consume_future)
    assert one._wait_consume_future.done()


async def test_a_patient_fetcher_that_got_nothing_asks_again_at_once(monkeypatch: pytest.MonkeyPatch, answers: list[bool]) -> None:
    one, answers[:] = new_fetcher(monkeypatch), [False]
    one.is_patient = True
    asked, waiter = fetch(one)
    assert await turns_until_done(asked) == 1
    assert not asked.result()
    assert not waiter.done()


async def test_a_fetch_that_is_cancelled_while_it_is_patient_ends_without_an_error(
    monkeypatch: pytest.MonkeyPatch, answers: list[bool]
) -> None:
    one, answers[:] = new_fetcher(monkeypatch), [True]
    asked = await handed_over(one)
    asked.cancel()
    assert not await asked
    one._notify(one._wait_consume_future)
    assert one._wait_consume_future.done()


async def test_patience_is_for_nothing_else(monkeypatch: pytest.MonkeyPatch, answers: list[bool]) -> None:
    one, answers[:] = new_fetcher(monkeypatch), [True]
    asked = await handed_over(one)
    other = asyncio.get_running_loop().create_future()
    one._notify(other)
    one._notify(None)
    assert other.done()
    one.look_again()
    assert one._wait_consume_future.done()
    one.look_again()  # a second time is no error
    await asked


@pytest.mark.parametrize("watches", [True, False])
async def test_paused_partitions_are_waited_for_only_when_nobody_tells_of_them(
    monkeypatch: pytest.MonkeyPatch, watches: bool
) -> None:
    one, assignment = new_fetcher(monkeypatch), Assignment()
    one.watches_paused = watches
    requests, resets, timeout, invalid, resumed = one._get_actions_per_node(assignment)
    assert [request.topics for _, request in requests] == [[("source", [(0, 7, 1)])]]
    assert (dict(resets), timeout, invalid) == ({}, 0.2, False)
    assert resumed == ([assignment.states[B].resume_fut] if watches else [])


async def test_a_paused_partition_without_a_position_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one, assignment = new_fetcher(monkeypatch), Assignment()
    one.watches_paused, assignment.states[B].has_valid_position = False, False
    one._client = SimpleNamespace(cluster=SimpleNamespace(leader_for_partition=lambda tp: 1))
    _, resets, *_ = one._get_actions_per_node(assignment)
    assert dict(resets) == {1: [B]}


async def test_records_left_of_a_paused_partition_hold_the_next_fetch_back(monkeypatch: pytest.MonkeyPatch) -> None:
    one, assignment = new_fetcher(monkeypatch), Assignment()
    one.watches_paused = False
    one._records[B] = SimpleNamespace(calculate_backoff=lambda: 0.1)
    requests, _, timeout, *_ = one._get_actions_per_node(assignment)
    assert (requests, timeout) == ([], 0.1)


def test_every_consumer_that_starts_later_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.consumer.consumer, "Fetcher", Fetcher)
    fetcher.install()
    assert aiokafka.consumer.consumer.Fetcher is EngineFetcher

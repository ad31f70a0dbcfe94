"""When the next fetch request goes out."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import aiokafka.consumer.consumer
import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import Fetcher

from app.engine import fetcher
from app.engine.fetcher import EngineFetcher

A, B = TopicPartition("source", 0), TopicPartition("changelog", 0)


class State:
    """One partition as aiokafka's subscription knows it."""

    has_valid_position, position = True, 7

    def __init__(self, paused: bool) -> None:
        self.paused = paused
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


async def turns_until_done(future: asyncio.Future[None]) -> int:
    turns = 0
    while not future.done():
        turns += 1
        await asyncio.sleep(0)
    return turns


async def test_a_fetcher_asks_for_more_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = new_fetcher(monkeypatch)
    one._notify(one._wait_consume_future)
    assert one._wait_consume_future.done()


async def test_a_patient_fetcher_lets_those_go_first_who_have_work(monkeypatch: pytest.MonkeyPatch) -> None:
    one = new_fetcher(monkeypatch)
    one.is_patient = True
    one._notify(one._wait_consume_future)
    assert await turns_until_done(one._wait_consume_future) == 2


async def test_patience_is_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one = new_fetcher(monkeypatch)
    one.is_patient = True
    waiter = asyncio.get_running_loop().create_future()
    one._notify(waiter)
    one._notify(None)
    assert waiter.done()
    one.look_again()
    assert one._wait_consume_future.done()
    one._notify(one._wait_consume_future)  # a second time is no error, late or not
    await asyncio.sleep(0.01)


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


def test_every_consumer_that_starts_later_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.consumer.consumer, "Fetcher", Fetcher)
    fetcher.install()
    assert aiokafka.consumer.consumer.Fetcher is EngineFetcher

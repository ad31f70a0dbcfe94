"""A reset connection is a connection error to aiokafka, under uvloop too."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.group import HeartbeatRequest

from app.engine import broken_connection


class BrokenWriter:
    """What uvloop's transport is just after a reset."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.closed = False

    def write(self, data: bytes) -> None:
        raise self.error

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def connection() -> AsyncIterator[AIOKafkaConnection]:
    """Connected to nothing; knows the versions of no API but its own."""
    one = AIOKafkaConnection("127.0.0.1", 1)
    one._versions = {HeartbeatRequest.API_KEY: (0, 1)}
    yield one
    one.close()


@pytest.mark.parametrize("error", [RuntimeError("unable to perform operation; the handler is closed"), OSError("reset")])
async def test_a_write_after_a_reset_is_a_connection_error(connection: AIOKafkaConnection, error: Exception) -> None:
    connection._reader, connection._writer = asyncio.StreamReader(), (writer := BrokenWriter(error))
    connection._read_task = asyncio.ensure_future(asyncio.sleep(0))
    with pytest.raises(KafkaConnectionError, match="broken"):
        broken_connection.send(connection, HeartbeatRequest("group", 1, "member"))
    assert writer.closed
    assert not connection.connected()


def test_uvloop_still_raises_what_this_is_for() -> None:
    """When this fails, uvloop has changed and the module can go."""

    async def write_after_reset() -> Exception | None:
        server = await asyncio.start_server(_reset, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            for _ in range(200):
                writer.write(b"x" * 1000)
                await asyncio.sleep(0.001)
        except Exception as exc:  # noqa: BLE001 - its type is the question
            return exc
        finally:
            server.close()
        return None

    assert isinstance(uvloop.run(write_after_reset()), RuntimeError)


async def _reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()

"""A TCP proxy that makes a network bad: delay, slow links, small slices, stalls, cuts, resets, half-open connections.

In the spirit of Toxiproxy, without its server. It runs in a thread of its own, and its methods may be called from any
other. Clients come to ``proxy.port``; what they send goes to ``upstream`` on loopback, as the current ``Link`` lets it.

What no proxy above TCP can do is to lose a packet: behind a stall the kernels still acknowledge what fits their buffers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from deploy.local.ports import LOOPBACK, free_ports

CHUNK = 16 * 1024
QUEUED_CHUNKS = 64
"""On their way, per direction and connection; a sender that is faster than the link feels it from here on."""
CALL_TIMEOUT_S = 5.0
LINGER_0 = struct.pack("ii", 1, 0)
"""Makes closing a socket send RST, and drop what was not sent."""


@dataclass(frozen=True, slots=True)
class Link:
    """The network between clients and upstream, both directions alike.

    ``latency_s``: one way, so a round trip takes twice that longer. ``bytes_per_s``: shared by all connections, 0: no
    limit. ``slice_bytes``: largest piece that is forwarded at once. ``stalled``: nothing passes and nothing is lost;
    it passes when the stall is over, as over a route that comes back.
    """

    latency_s: float = 0.0
    bytes_per_s: float = 0.0
    slice_bytes: int = CHUNK
    stalled: bool = False


GOOD = Link()


class TcpProxy:
    """One port in front of one upstream port. ``start`` before use, or use it as a context manager."""

    def __init__(self, upstream: int, port: int = 0) -> None:
        self.upstream = upstream
        self.port = port or free_ports(1)[0]
        self.accepted = 0
        """connections since the start"""
        self.forwarded = [0, 0]
        """bytes since the start: to upstream, to clients"""
        self._link = GOOD
        self._free_at = [0.0, 0.0]
        """when the link has sent what it was given, per direction; seconds of the loop's clock"""
        self._pairs: set[_Pair] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{self.port}", daemon=True)

    # -- from any thread ------------------------------------------------------------------------------
    def start(self) -> None:
        """Listen.

        Raises:
            OSError: the port is taken.
        """
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        """Reset every connection and end the thread; a second call does nothing."""
        if not self._thread.is_alive():
            return
        self._call(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()

    def set(self, link: Link) -> None:
        """Change the network, for the connections that there are and for new ones."""
        self._call(self._set(link))

    def reset(self) -> None:
        """RST to both ends of every connection; new ones are welcome."""
        self._call(self._reset())

    def cut(self) -> None:
        """Reset every connection and refuse new ones until ``restore``."""
        self._call(self._cut())

    def black_hole(self) -> None:
        """Half-open: no byte passes on the connections that there are, ever again, and neither end is told.

        New connections stall until ``restore``.
        """
        self._call(self._black_hole())

    def restore(self) -> None:
        """A good network that takes connections. Those lost in a black hole stay lost, until one of their ends gives up."""
        self._call(self._restore())

    @property
    def lost(self) -> int:
        """Connections in a black hole whose ends have not given up."""
        return sum(pair.is_lost for pair in tuple(self._pairs))

    @property
    def connections(self) -> int:
        """Open connections that can carry data, now or after a stall."""
        return len(self._pairs) - self.lost

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    # -- in the proxy's loop: commands ----------------------------------------------------------------
    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._on_client, LOOPBACK, self.port, limit=CHUNK)

    async def _set(self, link: Link) -> None:
        self._link, self._free_at = link, [0.0, 0.0]
        for pair in self._pairs:
            pair.set_stalled(link.stalled)

    async def _reset(self) -> None:
        for pair in self._pairs:
            pair.reset()

    async def _cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

    async def _black_hole(self) -> None:
        await self._set(Link(stalled=True))
        for pair in self._pairs:
            pair.is_lost = True

    async def _restore(self) -> None:
        await self._set(GOOD)
        await self._listen()

    async def _shut_down(self) -> None:
        await self._cut()
        doomed = asyncio.all_tasks() - {asyncio.current_task()}
        for task in doomed:
            task.cancel()
        await asyncio.gather(*doomed, return_exceptions=True)

    # -- in the proxy's loop: one connection ----------------------------------------------------------
    async def _on_client(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.accepted += 1
        try:
            upstream_reader, upstream_writer = await asyncio.open_connection(LOOPBACK, self.upstream, limit=CHUNK)
        except OSError:  # a client without a proxy would be refused; this one is reset
            _reset(writer)
            return
        pair = _Pair((writer, upstream_writer), self._link.stalled)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._carry(pair, 0, reader, upstream_writer))
                directions.create_task(self._carry(pair, 1, upstream_reader, writer))
        except* OSError:  # one end was reset: so is the other
            pair.reset()
        finally:
            self._pairs.discard(pair)
            pair.close()

    async def _carry(self, pair: _Pair, way: int, reader: StreamReader, writer: StreamWriter) -> None:
        """One direction to its end. A queue between reading and writing, so that delay costs no bandwidth."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_CHUNKS)
        async with asyncio.TaskGroup() as ends:
            ends.create_task(self._take_in(reader, queue))
            ends.create_task(self._give_out(pair, way, queue, writer))

    async def _take_in(self, reader: StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        chunk = b"-"
        while chunk:
            chunk = await reader.read(self._link.slice_bytes)
            await queue.put((self._loop.time() + self._link.latency_s, chunk))

    async def _give_out(self, pair: _Pair, way: int, queue: asyncio.Queue[tuple[float, bytes]], writer: StreamWriter) -> None:
        while True:
            due, chunk = await queue.get()
            await pair.flowing.wait()
            await asyncio.sleep(max(due, self._sent_at(way, len(chunk))) - self._loop.time())
            await pair.flowing.wait()  # a stall may have begun meanwhile
            if not chunk:
                break
            self.forwarded[way] += len(chunk)
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            with suppress(OSError):  # the other end is gone already
                writer.write_eof()

    def _sent_at(self, way: int, size: int) -> float:
        """When the last of ``size`` bytes leaves the link. Takes its place in the link's time table."""
        if not self._link.bytes_per_s:
            return 0.0
        begin = max(self._free_at[way], self._loop.time())
        self._free_at[way] = begin + size / self._link.bytes_per_s
        return self._free_at[way]


class _Pair:
    """A client's connection and the one to upstream that belongs to it."""

    def __init__(self, writers: tuple[StreamWriter, StreamWriter], stalled: bool) -> None:
        self.flowing = asyncio.Event()
        self.is_lost = False
        self._writers = writers
        self.set_stalled(stalled)

    def set_stalled(self, stalled: bool) -> None:
        """Stop or go on; a lost pair never does."""
        if stalled or self.is_lost:
            self.flowing.clear()
        else:
            self.flowing.set()

    def reset(self) -> None:
        for writer in self._writers:
            _reset(writer)

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def _reset(writer: StreamWriter) -> None:
    """RST instead of FIN."""
    with suppress(OSError):  # closed already
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    writer.transport.abort()

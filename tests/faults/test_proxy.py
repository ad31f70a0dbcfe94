"""Laws of the network that the fault tests break: an untouched proxy changes nothing, and each fault is what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from deploy.local.ports import LOOPBACK, free_ports, is_free
from tests.faults.proxy import GOOD, Link, TcpProxy

pytestmark = pytest.mark.process

TIMEOUT_S = 5.0


class Echo:
    """A server that sends back what it gets, until the client closes its half."""

    def __init__(self) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(connection,), daemon=True).start()


def _echo(connection: socket.socket) -> None:
    with connection:
        try:
            while data := connection.recv(65_536):
                connection.sendall(data)
        except OSError:
            return


@dataclass
class Client:
    """One connection through the proxy."""

    socket: socket.socket

    def exchange(self, data: bytes) -> bytes:
        """Send, and read as much back at the same time."""
        sender = threading.Thread(target=self.socket.sendall, args=(data,))
        sender.start()
        answer = self.read(len(data))
        sender.join()
        return answer

    def read(self, size: int) -> bytes:
        answer = b""
        while len(answer) < size and (part := self.socket.recv(65_536)):
            answer += part
        return answer

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes: no data, no end, no reset."""
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(1)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return False


Connect = Callable[[], Client]


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy(echo.port) as running:
        yield running


@pytest.fixture
def connect(proxy: TcpProxy) -> Iterator[Connect]:
    """Opens connections through the proxy; all are closed in the end."""
    opened: list[socket.socket] = []

    def make() -> Client:
        opened.append(socket.create_connection((LOOPBACK, proxy.port), TIMEOUT_S))
        return Client(opened[-1])

    yield make
    for connection in opened:
        connection.close()


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_a_good_network_changes_nothing_and_is_quick(proxy: TcpProxy, connect: Connect) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB, more than any buffer on the way
    client = connect()

    assert client.exchange(data) == data
    assert client.exchange(b"ping") == b"ping"
    assert proxy.accepted == proxy.connections == 1
    assert proxy.forwarded == [len(data) + 4] * 2


def test_an_end_of_input_passes_while_the_other_direction_goes_on(connect: Connect) -> None:
    client = connect()
    client.socket.sendall(b"last words")
    client.socket.shutdown(socket.SHUT_WR)

    assert client.read(100) == b"last words"  # up to the echo's own end of input


def test_an_end_on_one_side_closes_both(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    client.exchange(b"x")

    client.socket.close()

    assert until(lambda: proxy.connections == 0)


def test_latency_is_added_both_ways(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    client.exchange(b"x")
    proxy.set(Link(latency_s=0.1))

    began = time.monotonic()
    client.exchange(b"x")

    assert 0.2 <= time.monotonic() - began < 0.5


def test_latency_costs_no_bandwidth(proxy: TcpProxy, connect: Connect) -> None:
    proxy.set(Link(latency_s=0.1))
    data = b"x" * 512 * 1024  # 32 chunks: one after another they would take 3.2 s
    client = connect()

    began = time.monotonic()
    assert client.exchange(data) == data

    assert 0.2 <= time.monotonic() - began < 1.0


def test_a_slow_link_is_shared_by_all_connections(proxy: TcpProxy, connect: Connect) -> None:
    proxy.set(Link(bytes_per_s=400_000))
    clients = [connect(), connect()]

    began = time.monotonic()
    for client in clients:
        client.socket.sendall(b"x" * 100_000)
    answers = [client.read(100_000) for client in clients]

    assert [len(answer) for answer in answers] == [100_000, 100_000]
    assert 0.45 <= time.monotonic() - began < 1.2  # 200,000 bytes there, and back while they come


def test_a_faster_link_takes_effect_at_once(proxy: TcpProxy, connect: Connect) -> None:
    proxy.set(Link(bytes_per_s=10_000))
    client = connect()
    client.socket.sendall(b"x" * 60_000)
    assert client.is_silent(0.2)

    proxy.set(GOOD)

    began = time.monotonic()
    assert len(client.read(60_000)) == 60_000
    assert time.monotonic() - began < 2.5  # one chunk of 16 KiB was under way on the slow link


def test_small_slices_arrive_whole(proxy: TcpProxy, connect: Connect) -> None:
    proxy.set(Link(slice_bytes=7))
    data = bytes(range(256)) * 16

    assert connect().exchange(data) == data


def test_a_stall_delays_and_loses_nothing(proxy: TcpProxy, connect: Connect) -> None:
    old = connect()
    old.exchange(b"x")

    proxy.set(Link(stalled=True))
    old.socket.sendall(b"old")
    new = connect()
    new.socket.sendall(b"new")
    assert old.is_silent(0.2)
    assert new.is_silent(0.1)
    proxy.restore()

    assert (old.read(3), new.read(3)) == (b"old", b"new")


def test_a_stall_holds_what_is_already_on_its_way(proxy: TcpProxy, connect: Connect) -> None:
    proxy.set(Link(latency_s=0.2))
    client = connect()
    client.socket.sendall(b"x")
    time.sleep(0.1)

    proxy.set(Link(stalled=True))

    assert client.is_silent(0.5)


def test_a_reset_is_seen_by_the_client_and_new_connections_work(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    client.exchange(b"x")

    proxy.reset()

    with pytest.raises(ConnectionResetError):
        client.read(1)
    assert connect().exchange(b"again") == b"again"


def test_a_cut_refuses_new_connections_until_it_is_over(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    client.exchange(b"x")

    proxy.cut()

    with pytest.raises(ConnectionResetError):
        client.read(1)
    with pytest.raises(ConnectionRefusedError):
        connect()
    proxy.restore()
    assert connect().exchange(b"again") == b"again"


def test_a_black_hole_is_silent_for_good_and_only_for_the_connections_of_its_time(proxy: TcpProxy, connect: Connect) -> None:
    old = connect()
    old.exchange(b"x")

    proxy.black_hole()
    old.socket.sendall(b"anybody?")
    during = connect()
    during.socket.sendall(b"hello")
    assert during.is_silent(0.2)
    proxy.restore()

    assert during.read(5) == b"hello"
    assert old.is_silent(0.2)
    assert (proxy.lost, proxy.connections) == (1, 1)


def test_the_upstreams_end_is_not_told_through_a_black_hole(proxy: TcpProxy, connect: Connect) -> None:
    client = connect()
    client.socket.sendall(b"x")
    client.read(1)

    proxy.black_hole()
    client.socket.shutdown(socket.SHUT_WR)

    assert client.is_silent(0.2)


def test_a_dead_upstream_is_a_reset() -> None:
    with TcpProxy(free_ports(1)[0]) as proxy, pytest.raises(ConnectionResetError):
        _read_one(proxy.port)  # the reset may come as early as in connect()


def _read_one(port: int) -> bytes:
    with socket.create_connection((LOOPBACK, port), TIMEOUT_S) as client:
        return client.recv(1)


def test_a_stop_ends_connections_and_frees_the_port(echo: Echo) -> None:
    proxy = TcpProxy(echo.port)
    proxy.start()
    with socket.create_connection((LOOPBACK, proxy.port), TIMEOUT_S) as client:
        client.sendall(b"x")
        assert client.recv(1) == b"x"
        proxy.black_hole()  # these are closed, too

        proxy.stop()

        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert is_free(proxy.port)
    proxy.stop()

"""One configuration for all Kafka clients, and one sentence for each way a connection fails."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from faust.auth import SASLCredentials, SSLCredentials
from faust.types.auth import AuthProtocol
from pydantic import SecretStr

from app import kafka_clients
from app.kafka_clients import (
    KafkaConnectError,
    bootstrap_hosts,
    client_options,
    connected,
    diagnose,
    faust_credentials,
    ssl_context,
)
from app.settings import Settings, SettingsError

pytestmark = pytest.mark.process

PASSWORD = "planted-canary"
SASL = {"kafka_sasl_username": "veltrix", "kafka_sasl_password": SecretStr(PASSWORD)}
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def make(**values: Any) -> Settings:
    return Settings(**values)


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    """A server on the loopback interface; gives its host:port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def refuse_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that knows ApiVersions, SaslHandshake and SaslAuthenticate, and no user."""
    versions = struct.pack(">hi", 0, 3) + b"".join(struct.pack(">hhh", key, 0, top) for key, top in ((17, 1), (18, 0), (36, 0)))
    answers = {
        18: versions,
        17: struct.pack(">hi", 0, 1) + struct.pack(">h", 5) + b"PLAIN",
        36: struct.pack(">h", 58) + struct.pack(">h", 2) + b"no" + struct.pack(">i", 0),
    }
    while True:
        try:
            size = struct.unpack(">i", await reader.readexactly(4))[0]
            frame = await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            return
        api_key, _, correlation = struct.unpack(">hhi", frame[:8])
        body = struct.pack(">i", correlation) + answers[api_key]
        writer.write(struct.pack(">i", len(body)) + body)


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def speak_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await writer.drain()


def test_plaintext_needs_nothing_but_the_address() -> None:
    options = client_options(make(kafka_bootstrap="a:1,b:2"))

    assert options["bootstrap_servers"] == "a:1,b:2"
    assert (options["security_protocol"], options["ssl_context"]) == ("PLAINTEXT", None)
    assert not any(name.startswith("sasl") for name in options)
    assert faust_credentials(make()) is None


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_tls_is_at_least_1_2_and_checks_certificate_and_host_name(protocol: str) -> None:
    context = ssl_context(make(kafka_security_protocol=protocol))

    assert context is not None
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_worker_and_tools_read_the_same_login() -> None:
    settings = make(kafka_security_protocol="SASL_SSL", **SASL)

    options, credentials = client_options(settings), faust_credentials(settings)

    assert isinstance(credentials, SASLCredentials)
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("veltrix", PASSWORD)
    assert (credentials.username, credentials.password) == ("veltrix", PASSWORD)
    assert options["sasl_mechanism"] == credentials.mechanism.value == "SCRAM-SHA-512"
    assert credentials.protocol is AuthProtocol.SASL_SSL
    assert credentials.ssl_context is not None


def test_tls_without_login_gives_faust_a_context() -> None:
    credentials = faust_credentials(make(kafka_security_protocol="SSL"))

    assert isinstance(credentials, SSLCredentials)
    assert credentials.context.check_hostname


def test_sasl_without_tls_stays_without_tls_where_it_is_allowed() -> None:
    credentials = faust_credentials(make(kafka_security_protocol="SASL_PLAINTEXT", kafka_allow_sasl_plaintext=True, **SASL))

    assert credentials is not None
    assert credentials.protocol is AuthProtocol.SASL_PLAINTEXT


def test_sasl_without_a_password_names_the_settings() -> None:
    with pytest.raises(SettingsError, match="VELTRIX_KAFKA_SASL_PASSWORD"):
        client_options(make(kafka_security_protocol="SASL_SSL", kafka_sasl_username="veltrix"))


def test_a_missing_or_broken_certificate_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "ca.pem"
    broken.write_text("no certificate")

    for path, why in ((tmp_path / "absent.pem", "No such file"), (broken, "no certificate|NO_CERTIFICATE")):
        with pytest.raises(SettingsError, match=f"{path.name}.*({why})"):
            ssl_context(make(kafka_security_protocol="SSL", kafka_ssl_ca_file=path))
    with pytest.raises(SettingsError, match=r"VELTRIX_KAFKA_SSL_CERT_FILE=.*ca\.pem"):
        ssl_context(make(kafka_security_protocol="SSL", kafka_ssl_cert_file=broken))
    with pytest.raises(SettingsError, match="needs VELTRIX_KAFKA_SSL_CERT_FILE"):
        ssl_context(make(kafka_security_protocol="SSL", kafka_ssl_key_file=broken))


def test_bootstrap_lists_are_read_with_default_port_and_ipv6() -> None:
    assert bootstrap_hosts("a:1, b ,[::1]:3,[::1]") == [("a", 1), ("b", 9092), ("::1", 3), ("::1", 9092)]


@pytest.mark.parametrize("text", ["a:b", "", " , "])
def test_a_wrong_bootstrap_list_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(SettingsError, match="VELTRIX_KAFKA_BOOTSTRAP"):
        bootstrap_hosts(text)


async def test_no_broker_says_where_nothing_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        settings = make(kafka_bootstrap=address)

        with pytest.raises(KafkaConnectError, match=f"nothing listens on {address}; start Kafka or check VELTRIX_KAFKA_BOOTSTRAP"):
            async with connected(AIOKafkaProducer(**client_options(settings)), settings):
                pass


async def test_a_wrong_password_says_so_and_does_not_show_it() -> None:
    async with listening(refuse_password) as address:
        settings = make(
            kafka_bootstrap=address,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_allow_sasl_plaintext=True,
            kafka_sasl_mechanism="PLAIN",
            **SASL,
        )
        with pytest.raises(KafkaConnectError, match="wrong user or password for 'veltrix'") as failure:
            async with connected(AIOKafkaProducer(**client_options(settings)), settings):
                pass

    assert PASSWORD not in str(failure.value)


async def test_a_mechanism_that_the_broker_does_not_offer_is_named() -> None:
    async with listening(refuse_password) as address:
        reason = await diagnose(
            make(kafka_bootstrap=address, kafka_security_protocol="SASL_PLAINTEXT", kafka_allow_sasl_plaintext=True, **SASL)
        )

    assert reason is not None
    assert "does not take SCRAM-SHA-512" in reason


async def test_tls_on_a_plain_port_says_which_protocol_to_check() -> None:
    async with listening(speak_plain) as address:
        reason = await diagnose(make(kafka_bootstrap=address, kafka_security_protocol="SSL"))

    assert reason is not None
    assert f"TLS with {address} failed" in reason
    assert "speaks SSL" in reason


async def test_a_port_that_hangs_up_or_is_silent_says_which_protocol_to_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_clients, "PROBE_TIMEOUT_S", 0.2)
    for handler, words in ((hang_up, "closed the connection"), (say_nothing, "gave no answer")):
        async with listening(handler) as address:
            reason = await diagnose(make(kafka_bootstrap=address))

        assert reason is not None
        assert words in reason
        assert "speaks PLAINTEXT" in reason


async def test_an_untrusted_certificate_names_the_ca_setting() -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_message = "self-signed certificate"

    text = kafka_clients._explain(error, "a:1", make(kafka_security_protocol="SSL"))

    assert (
        text == "the certificate of a:1 is not accepted: self-signed certificate; check VELTRIX_KAFKA_SSL_CA_FILE and the host name"
    )


async def test_a_client_that_could_not_start_is_stopped() -> None:
    class Client:
        stopped = False

        async def start(self) -> None:
            raise OSError("boom")

        async def stop(self) -> None:
            self.stopped = True

    client = Client()
    with pytest.raises(KafkaConnectError):
        async with connected(client, make(kafka_bootstrap="127.0.0.1:1")):
            pass

    assert client.stopped

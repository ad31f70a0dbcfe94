"""One Kafka configuration for every client of this project: worker, tools, sidecar.

``client_options`` gives the keyword arguments that all aiokafka clients share, ``faust_credentials`` the same
for Faust. ``connected`` starts a client and turns what may go wrong into one sentence that says what to check.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

from app.settings import Settings, SettingsError

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

log = structlog.get_logger(__name__)

#: Longest wait of a tool for the first answer of the cluster; a broker that only drops packets would cost a minute.
CONNECT_TIMEOUT_S: Final = 15.0
#: Longest good-bye to brokers that may be away.
LEAVE_TIMEOUT_S: Final = 3.0
#: Longest wait for one host when finding out why none answered.
PROBE_TIMEOUT_S: Final = 5.0
TLS_PROTOCOLS: Final = ("SSL", "SASL_SSL")
SASL_PROTOCOLS: Final = ("SASL_PLAINTEXT", "SASL_SSL")


class KafkaConnectError(Exception):
    """No working connection to Kafka. The message says which host, why, and what to check."""

    def __init__(self, bootstrap: str, reason: str) -> None:
        super().__init__(f"Kafka at {bootstrap}: {reason}")
        self.bootstrap = bootstrap
        self.reason = reason


class KafkaClient(Protocol):
    """What aiokafka's producer and consumer have in common."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


ClientT = TypeVar("ClientT", bound=KafkaClient)


def ssl_context(settings: Settings) -> ssl.SSLContext | None:
    """TLS 1.2 or newer, certificates and host names checked; None when the protocol has no TLS.

    Raises:
        SettingsError: a certificate file is missing or is no certificate.
    """
    if settings.kafka_security_protocol not in TLS_PROTOCOLS:
        return None
    ca, cert, key = settings.kafka_ssl_ca_file, settings.kafka_ssl_cert_file, settings.kafka_ssl_key_file
    if key is not None and cert is None:
        raise SettingsError("VELTRIX_KAFKA_SSL_KEY_FILE needs VELTRIX_KAFKA_SSL_CERT_FILE beside it")
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(f"VELTRIX_KAFKA_SSL_CA_FILE={ca} is not a readable PEM bundle: {_of(exc)}") from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as exc:
            raise SettingsError(f"VELTRIX_KAFKA_SSL_CERT_FILE={cert} with key {key or cert}: {_of(exc)}") from exc
    return context


def client_options(settings: Settings, *, client_id: str | None = None) -> dict[str, Any]:
    """Keyword arguments that AIOKafkaProducer, -Consumer and -AdminClient share.

    Raises:
        SettingsError: SASL without user or password, or wrong certificate files.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_bootstrap,
        "client_id": client_id or f"{settings.app_id}-tools",
        "security_protocol": settings.kafka_security_protocol,
        "ssl_context": ssl_context(settings),
    }
    if settings.kafka_security_protocol in SASL_PROTOCOLS:
        username, password = _sasl_login(settings)
        options |= {
            "sasl_mechanism": settings.kafka_sasl_mechanism,
            "sasl_plain_username": username,
            "sasl_plain_password": password,
        }
    return options


def transactional_producer(settings: Settings, transactional_id: str) -> AIOKafkaProducer:
    """A producer for short transactions, not started; must be made on a running loop.

    A short back-off, since the broker answers "not yet" while the markers of the transaction before are being written.
    """
    return AIOKafkaProducer(
        **client_options(settings, client_id=f"{settings.app_id}-transactions"),
        transactional_id=transactional_id,
        transaction_timeout_ms=settings.transaction_timeout_ms,
        max_batch_size=settings.produce_max_batch_bytes,
        max_request_size=settings.produce_max_batch_bytes + 65_536,
        request_timeout_ms=settings.kafka_request_timeout_ms,
        retry_backoff_ms=10,
    )


def faust_credentials(settings: Settings) -> CredentialsT | None:
    """The same configuration as Faust's ``broker_credentials``; None for PLAINTEXT.

    Raises:
        SettingsError: as ``client_options``.
    """
    if settings.kafka_security_protocol == "PLAINTEXT":
        return None
    from faust.auth import SASLCredentials, SSLCredentials  # tools that need no Faust start without its half second

    context = ssl_context(settings)
    if settings.kafka_security_protocol == "SSL":
        return SSLCredentials(context=context)
    username, password = _sasl_login(settings)
    return SASLCredentials(username=username, password=password, ssl_context=context, mechanism=settings.kafka_sasl_mechanism)


@asynccontextmanager
async def connected(client: ClientT, settings: Settings) -> AsyncIterator[ClientT]:
    """Start a client, hand it out, stop it.

    Raises:
        KafkaConnectError: no host of the bootstrap list gives a working connection.
    """
    try:
        await connect(client, settings)
        yield client
    finally:
        await client.stop()


async def leave(client: KafkaClient) -> None:
    """Stop a client; a broker that is away, or that has fenced it, is not waited for."""
    try:
        async with asyncio.timeout(LEAVE_TIMEOUT_S):
            await client.stop()
    except (KafkaError, TimeoutError) as exc:
        log.info("client_left", reason=repr(exc))


@contextmanager
def stray_cancellations() -> Iterator[None]:
    """aiokafka cancels what waits for a connection that is closed; nobody has cancelled the waiting task.

    Raises:
        KafkaConnectionError: in place of such a cancellation. A real one passes.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise KafkaConnectionError("the connection was closed") from None


async def connect(client: KafkaClient, settings: Settings) -> None:
    """Start a client; the caller stops it, also after an error.

    Raises:
        KafkaConnectError: no host of the bootstrap list gives a working connection.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await client.start()
    except (KafkaError, OSError, TimeoutError) as exc:
        raise KafkaConnectError(settings.kafka_bootstrap, await diagnose(settings) or _of(exc)) from exc


async def diagnose(settings: Settings) -> str | None:
    """Why no host of the bootstrap list can be used, with what to check; None when one can.

    aiokafka logs the cause of a failed bootstrap and raises without it, so this asks each host once more.
    """
    options = client_options(settings)
    reasons: list[str] = []
    for host, port in bootstrap_hosts(settings.kafka_bootstrap):
        reason = await _probe(host, port, options, settings)
        if reason is None:
            return None
        reasons.append(reason)
    return "; ".join(dict.fromkeys(reasons))


def bootstrap_hosts(bootstrap: str) -> list[tuple[str, int]]:
    """``"a:9092,[::1]:9093"`` as pairs; the port is 9092 where it is missing.

    Raises:
        SettingsError: a port is not a number.
    """
    hosts = []
    for part in filter(None, (text.strip() for text in bootstrap.split(","))):
        host, colon, port = part.rpartition(":")
        if not colon or part.endswith("]"):
            host, port = part, "9092"
        if not port.isdigit():
            raise SettingsError(f"VELTRIX_KAFKA_BOOTSTRAP: {part!r} is not host:port")
        hosts.append((host.strip("[]"), int(port)))
    if not hosts:
        raise SettingsError("VELTRIX_KAFKA_BOOTSTRAP is empty: give host:port")
    return hosts


async def _probe(host: str, port: int, options: Mapping[str, Any], settings: Settings) -> str | None:
    """Connect to one host as a client would. None: it works."""
    own = {name: value for name, value in options.items() if name != "bootstrap_servers"}
    try:
        connection = await create_conn(host, port, request_timeout_ms=int(PROBE_TIMEOUT_S * 1000), **own)
    except (OSError, KafkaError, TimeoutError) as exc:
        return _explain(exc, f"{host}:{port}", settings)
    connection.close()
    return None


def _explain(exc: BaseException, address: str, settings: Settings) -> str:
    """One sentence: what happened, and what to check. Never holds a password."""
    protocol, user = settings.kafka_security_protocol, settings.kafka_sasl_username
    match exc:
        case SaslAuthenticationFailed():
            return f"wrong user or password for {user!r} ({settings.kafka_sasl_mechanism}); check VELTRIX_KAFKA_SASL_USERNAME and _PASSWORD"
        case UnsupportedSaslMechanismError() | IllegalSaslStateError():
            return f"{address} does not take {settings.kafka_sasl_mechanism} over {protocol}; check VELTRIX_KAFKA_SASL_MECHANISM ({_of(exc)})"
        case ssl.SSLCertVerificationError():
            return f"the certificate of {address} is not accepted: {exc.verify_message}; check VELTRIX_KAFKA_SSL_CA_FILE and the host name"
        case ssl.SSLError():
            return f"TLS with {address} failed ({exc.reason or _of(exc)}); check that this port speaks {protocol} and asks for no other client certificate"
        case ConnectionRefusedError():
            return f"nothing listens on {address}; start Kafka or check VELTRIX_KAFKA_BOOTSTRAP"
        case TimeoutError():
            return f"{address} gave no answer within {PROBE_TIMEOUT_S:.0f} s; check address, firewall and that the port speaks {protocol}"
        case KafkaError() | ConnectionResetError() | BrokenPipeError():
            return f"{address} closed the connection; check that the port speaks {protocol} (VELTRIX_KAFKA_SECURITY_PROTOCOL)"
        case _:
            return f"no connection to {address}: {_of(exc)}; check VELTRIX_KAFKA_BOOTSTRAP"


def _sasl_login(settings: Settings) -> tuple[str, str]:
    username, password = settings.kafka_sasl_username, settings.kafka_sasl_password.get_secret_value()
    if not username or not password:
        raise SettingsError(
            f"{settings.kafka_security_protocol} needs VELTRIX_KAFKA_SASL_USERNAME and VELTRIX_KAFKA_SASL_PASSWORD (or _PASSWORD_FILE)"
        )
    return username, password


def _of(exc: BaseException) -> str:
    """A library's error in words, for the end of a sentence."""
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return str(exc) or type(exc).__name__

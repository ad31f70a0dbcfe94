"""Tokens of an identity provider: a real server gives real keys, and every way to cheat that RFC 8725 names is tried."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from app.dead_letters.roles import IMPLIED
from app.settings import Settings
from app.sidecar.access import LogIn
from app.sidecar.oidc import KEEP_S, RETRY_S, IdentityProvider, Keys, NoKeys, Provider, roles_in
from app.sidecar.problems import Problem
from app.sidecar.rates import Rates
from tests.sidecar.test_access import BASE, application, bearer
from tests.telemetry.fakes import FakeClock

AUDIENCE = "veltrix"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


class Server:
    """An identity provider: its documents by path, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.documents: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"},
            "/keys": {
                "keys": [jwk("rsa", RSA_KEY), jwk("pss", RSA_KEY) | {"alg": "PS256"}, jwk("ec", EC_KEY), {"kty": "?", "kid": "new"}]
            },
        }
        self.asked: list[str] = []


@contextmanager
def running() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.asked.append(self.path)
            found = known.documents.get(self.path)
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    known = Server(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield known
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    with running() as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Iterator[Server]:
    kept = dict(shared.documents)
    shared.asked.clear()
    yield shared
    shared.documents = kept


def jwk(key_id: str, key: Any) -> dict[str, Any]:
    kind = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else jwt.algorithms.RSAAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": key_id, "use": "sig"}


def token(server: Server, key: Any = RSA_KEY, key_id: str | None = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"iss": server.url, "aud": AUDIENCE, "sub": "42", "exp": time.time() + 300, "roles": ["operator"]} | changes
    held = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(held, key, algorithm, headers={"kid": key_id} if key_id else {})


def provider(server: Server, **changes: Any) -> IdentityProvider:
    return IdentityProvider(Provider(server.url, AUDIENCE, **changes))


@pytest.mark.parametrize(
    ("key", "key_id", "algorithm"), [(RSA_KEY, "rsa", "RS256"), (RSA_KEY, "pss", "PS256"), (EC_KEY, "ec", "ES256")]
)
async def test_a_token_of_the_provider_says_who_asks_and_what_they_may(
    server: Server, key: Any, key_id: str, algorithm: str
) -> None:
    made = token(server, key, key_id, algorithm, preferred_username="ann", aud=["other", AUDIENCE])
    caller = await provider(server).find(made)
    assert caller is not None
    assert (caller.name, caller.roles) == ("ann (42)", IMPLIED["operator"])


def unsigned(server: Server) -> str:
    body = token(server).split(".")[1]
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"rsa"}').rstrip(b"=").decode()
    return f"{none}.{body}."


def signed_with_the_public_key(server: Server) -> str:
    """As a shared secret: what a library that trusts the header would take."""
    body = token(server).split(".")[1]
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"rsa"}').rstrip(b"=").decode()
    secret = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    mac = hmac.new(secret, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


WRONG: dict[str, Callable[[Server], str]] = {
    "expired": lambda s: token(s, exp=time.time() - 120),
    "not yet": lambda s: token(s, nbf=time.time() + 120),
    "for another service": lambda s: token(s, aud="billing"),
    "of another issuer": lambda s: token(s, iss="https://elsewhere.example.org"),
    "no expiry": lambda s: token(s, exp=None),
    "no audience": lambda s: token(s, aud=None),
    "no subject": lambda s: token(s, sub=None),
    "another key": lambda s: token(s, OTHER_KEY),
    "another algorithm than the key's": lambda s: token(s, algorithm="PS512"),
    "another kind of key": lambda s: token(s, EC_KEY, "rsa", "ES256"),
    "an unknown key": lambda s: token(s, OTHER_KEY, "stranger"),
    "no key id": lambda s: token(s, key_id=None),
    "a changed body": lambda s: ".".join(
        [*token(s).split(".")[:1], token(s, roles=["admin"]).split(".")[1], token(s).split(".")[2]]
    ),
    "unsigned": unsigned,
    "a shared secret": signed_with_the_public_key,
    "no token at all": lambda s: "a.b.c",
    "bytes": lambda s: "\x00.\xff.é",
}


@pytest.mark.parametrize("way", WRONG)
async def test_a_token_that_is_not_for_us_is_nobodys(server: Server, way: str) -> None:
    assert await provider(server).find(WRONG[way](server)) is None


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({"roles": ["viewer", "admin", "boss"]}, "roles", ["viewer", "admin"]),
        ({"scope": "openid viewer operator"}, "scope", ["viewer", "operator"]),
        ({"realm_access": {"roles": ["admin"]}}, "realm_access.roles", ["admin"]),
        ({"roles": {"admin": True}}, "roles", []),
        ({"roles": 7}, "roles", []),
        ({}, "realm_access.roles", []),
        ({"roles": [["admin"], None]}, "roles", []),
    ],
)
def test_roles_are_found_where_the_claim_is_and_others_roles_are_not_ours(
    claims: dict[str, Any], path: str, roles: list[str]
) -> None:
    assert roles_in(claims, path) == roles


async def test_keys_are_asked_for_once_and_again_for_a_new_one_but_not_by_every_made_up_id(server: Server) -> None:
    clock = FakeClock()
    keys = Keys(Provider(server.url, AUDIENCE), clock=clock)
    for _ in range(3):
        assert await keys.of("rsa") is not None
    assert server.asked == ["/.well-known/openid-configuration", "/keys"]
    assert [await keys.of(f"made up {n}") for n in range(50)] == [None] * 50
    assert len(server.asked) == 2

    server.documents["/keys"] = {"keys": [jwk("next", OTHER_KEY)]}
    clock.now += RETRY_S + 1
    assert await keys.of("next") is not None
    assert await keys.of("rsa") is None, "a key that was withdrawn is worth nothing"
    assert len(server.asked) == 4


async def test_a_provider_that_is_away_locks_nobody_out_whose_key_is_known(server: Server) -> None:
    clock = FakeClock()
    keys = Keys(Provider(server.url, AUDIENCE, f"{server.url}/keys"), clock=clock)
    assert await keys.of("rsa") is not None
    del server.documents["/keys"]
    clock.now += KEEP_S + 1
    assert await keys.of("rsa") is not None
    assert await keys.of("stranger") is None


@pytest.mark.parametrize(
    "document",
    [None, {}, [], {"issuer": "https://elsewhere.example.org", "jwks_uri": "https://elsewhere.example.org/keys"}],
)
async def test_a_provider_without_keys_is_a_503_and_is_asked_again(server: Server, document: Any) -> None:
    good = server.documents["/.well-known/openid-configuration"]
    server.documents["/.well-known/openid-configuration"] = document
    asking = provider(server)
    with pytest.raises(Problem) as caught:
        await asking.find(token(server))
    assert (caught.value.status, caught.value.kind) == (503, "identity-provider-unavailable")
    server.documents["/.well-known/openid-configuration"] = good
    assert await asking.find(token(server)) is not None, "nobody waits for what never worked"


@pytest.mark.parametrize("document", [{"keys": []}, {"keys": "x"}, {"keys": [7]}, [], "keys", None])
async def test_a_key_set_that_is_none_is_a_503(server: Server, document: Any) -> None:
    server.documents["/keys"] = document
    with pytest.raises(Problem):
        await provider(server).find(token(server))


async def test_keys_of_a_provider_with_https_are_taken_over_https_alone() -> None:
    async def fetch(url: str) -> Any:
        return {"issuer": "https://login.example.org", "jwks_uri": "http://login.example.org/keys"}

    keys = Keys(Provider("https://login.example.org", AUDIENCE), fetch)
    with pytest.raises(NoKeys, match="HTTPS alone"):
        await keys.of("rsa")


async def test_the_api_takes_such_tokens_beside_those_of_a_file_and_their_roles_rule(server: Server) -> None:
    class File:
        async def find(self, token: str) -> None:
            return None

    app = application(LogIn([File(), provider(server)], Rates(1e9)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

        async def status(method: str, path: str, **claims: Any) -> int:
            made = token(server, **claims)
            return (await client.request(method, BASE + path, headers=bearer(made), json={"reason": "r"})).status_code

        assert await status("GET", "/queues", roles=["viewer"]) == 404, "let through, to a queue that there is not"
        assert await status("POST", "/discards", roles=["viewer"]) == 403
        assert await status("GET", "/queues", roles=["boss"]) == 403, "known, and without any role"
        assert await status("GET", "/queues", roles=["viewer"], aud="billing") == 401


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"admin_oidc_issuer": "https://login.example.org"}, "admin_oidc_audience"),
        ({"admin_oidc_issuer": "http://login.example.org", "admin_oidc_audience": "veltrix"}, "admin_oidc_issuer"),
        ({"admin_oidc_issuer": "http://localhost.example.org", "admin_oidc_audience": "veltrix"}, "admin_oidc_issuer"),
        ({"admin_oidc_jwks_url": "http://login.example.org/keys"}, "admin_oidc_jwks_url"),
    ],
)
def test_settings_that_would_let_strangers_in_are_refused(wrong: dict[str, str], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Settings(**wrong)  # type: ignore[arg-type]

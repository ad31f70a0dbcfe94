"""Who may do what about dead letters: each role against each route of ``veltrix admin``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from app.dead_letters.api import UnknownQueue
from app.dead_letters.roles import ROLES, BadTokensFile, Role, digest_of, new_token, parse_tokens
from app.settings import Settings
from app.sidecar.access import Access, Everybody, LogIn, Strangers, TokenFile
from app.sidecar.administration import AdminDeps, create_admin
from app.sidecar.dead_letter_requests import (
    Canary,
    Discard,
    DiscardJob,
    FilterBody,
    GroupChange,
    Replay,
    ReplayJob,
    Try,
    TryMany,
)
from app.sidecar.log_ins import admin_access, worker_access
from app.sidecar.rates import Rates

BASE = "/api/v1/dlq"
AT_WILL = Rates(1e9)
ID = "dlq.veltrix.interactions:0:0"
#: Route, a body that is well formed, and the least role.
RULES: dict[tuple[str, str], tuple[Any, Role]] = {
    ("GET", "/queues"): (None, "viewer"),
    ("GET", "/records"): (None, "viewer"),
    ("GET", "/records?q=word"): (None, "payload-reader"),
    ("GET", "/records/stream"): (None, "viewer"),
    ("GET", "/records/stream?q=word"): (None, "payload-reader"),
    ("GET", "/records/{record_id}"): (None, "viewer"),
    ("GET", "/records/{record_id}/raw"): (None, "payload-reader"),
    ("GET", "/records/{record_id}/state"): (None, "viewer"),
    ("POST", "/records/{record_id}/validate"): ({}, "operator"),
    ("POST", "/records/{record_id}/replay"): ({"reason": "r"}, "operator"),
    ("POST", "/records/{record_id}/replay#edit"): ({"reason": "r", "value_base64": ""}, "admin"),
    ("POST", "/records/{record_id}/replay#force"): ({"reason": "r", "force": True}, "admin"),
    ("POST", "/records/{record_id}/discard"): ({"reason": "r"}, "admin"),
    ("GET", "/groups"): (None, "viewer"),
    ("PATCH", "/groups/{fingerprint}"): ({"note": "n"}, "operator"),
    ("POST", "/groups/{fingerprint}/validate"): ({}, "operator"),
    ("POST", "/replays"): ({"reason": "r"}, "operator"),
    ("POST", "/replays#patch"): ({"reason": "r", "patch": []}, "admin"),
    ("POST", "/replays#force"): ({"reason": "r", "force": True}, "admin"),
    ("POST", "/discards"): ({"reason": "r"}, "admin"),
    ("GET", "/replays"): (None, "viewer"),
    ("GET", "/replays/{job_id}"): (None, "viewer"),
    ("POST", "/replays/{job_id}/{order}"): (None, "operator"),
    ("GET", "/export"): (None, "payload-reader"),
    ("GET", "/audit"): (None, "viewer"),
}
MAY: dict[Role, set[Role]] = {
    "viewer": {"viewer"},
    "payload-reader": {"viewer", "payload-reader"},
    "operator": {"viewer", "operator"},
    "admin": {"viewer", "payload-reader", "operator", "admin"},
}


class Refusing:
    """Answers every question alike, once it is asked: the caller was let through."""

    max_rate = 10.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def refuse(*arguments: Any, **named: Any) -> Any:
            raise UnknownQueue("let through")

        return refuse


def application(access: Access) -> FastAPI:
    refusing, follower = cast("Any", Refusing()), cast("Any", SimpleNamespace(lag=0, problem=None, is_built=True))
    return create_admin(
        AdminDeps(Settings(), refusing, refusing, follower, refusing, refusing, refusing.validate, access, CollectorRegistry())
    )


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Role, str]]:
    made = {role: new_token(f"the-{role}", role) for role in ROLES}
    path = tmp_path_factory.mktemp("access") / "tokens"
    path.write_text("# who may\n\n" + "\n".join(line for _, line in made.values()) + "\n")
    return path, {role: token for role, (token, _) in made.items()}


@pytest.fixture(scope="module")
def guarded_app(tokens: tuple[Path, dict[Role, str]]) -> FastAPI:
    return application(LogIn([TokenFile(tokens[0])], AT_WILL))


@pytest.fixture
async def guarded(guarded_app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guarded_app), base_url="http://127.0.0.1") as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def path_of(route: str) -> str:
    path = route.split("#", maxsplit=1)[0]
    return BASE + path.format(record_id=ID, fingerprint="f" * 16, job_id="replay-1", order="pause")


def test_every_route_has_a_rule() -> None:
    paths = application(Everybody()).openapi()["paths"]
    found = {(method.upper(), path.removeprefix(BASE)) for path, methods in paths.items() for method in methods if BASE in path}
    assert found == {(method, path.split("#")[0].split("?")[0]) for method, path in RULES}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("rule", RULES, ids=" ".join)
async def test_a_role_may_what_it_is_for_and_nothing_else(
    guarded: httpx.AsyncClient, tokens: tuple[Path, dict[Role, str]], rule: tuple[str, str], role: Role
) -> None:
    (method, route), (body, least) = rule, RULES[rule]
    answer = await guarded.request(method, path_of(route), json=body, headers=bearer(tokens[1][role]))
    assert answer.status_code == (404 if least in MAY[role] else 403), answer.text
    kind = "unknown-queue" if least in MAY[role] else "forbidden"
    assert answer.json()["type"] == f"urn:veltrix:problem:{kind}"


@pytest.mark.parametrize("rule", RULES, ids=" ".join)
@pytest.mark.parametrize(
    "header", [{}, bearer("wrong"), bearer(""), {"authorization": "Basic eDp5"}, {"authorization": "x" * 4000}]
)
async def test_without_a_valid_token_there_is_nothing(
    guarded: httpx.AsyncClient, rule: tuple[str, str], header: dict[str, str]
) -> None:
    answer = await guarded.request(rule[0], path_of(rule[1]), json=RULES[rule][0], headers=header)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["type"] == "urn:veltrix:problem:unauthorized"


async def test_health_and_metrics_need_no_token(guarded: httpx.AsyncClient) -> None:
    assert [(await guarded.get(path)).status_code for path in ("/livez", "/readyz", "/metrics")] == [200, 200, 200]


async def test_a_token_that_is_taken_out_of_the_file_is_worth_nothing_and_a_broken_file_changes_nothing(
    tmp_path: Path, tokens: tuple[Path, dict[Role, str]]
) -> None:
    path, made = tmp_path / "tokens", tokens[1]
    path.write_text(tokens[0].read_text())
    transport = httpx.ASGITransport(application(LogIn([TokenFile(path)], AT_WILL)))
    guarded = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def status(role: Role) -> int:
        return (await guarded.get(f"{BASE}/queues", headers=bearer(made[role]))).status_code

    def rewrite(text: str, stamp: int) -> None:
        path.write_text(text)
        os.utime(path, (stamp, stamp))

    assert await status("viewer") == 404
    rewrite(f"ann admin {digest_of(made['admin']).decode()}\n", 1)
    assert (await status("viewer"), await status("admin")) == (401, 404)
    rewrite("nonsense\n", 2)
    assert (await status("viewer"), await status("admin")) == (401, 404)
    path.unlink()
    assert await status("admin") == 404


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no token"), ("# only words\n", "no token"), ("ann admin abc\n", "line 1"), ("ann admin\n", "line 1"),
        (f"\nann boss {'0' * 64}\n", "line 2: boss"), (f"ann admin {'g' * 64}\n", "line 1"), (f"an n admin {'0' * 64}\n", "line 1"),
    ],
)  # fmt: skip
def test_a_wrong_tokens_file_says_where(text: str, says: str) -> None:
    with pytest.raises(BadTokensFile, match=says):
        parse_tokens(text, "tokens")


def test_a_token_is_long_new_each_time_and_not_in_its_line() -> None:
    (first, line), (second, _) = new_token("ann", "viewer,operator"), new_token("ann", "viewer")
    assert len(first) >= 43
    assert first != second
    assert first not in line
    (caller,) = parse_tokens(line, "x").values()
    assert caller.roles == {"viewer", "operator"}
    with pytest.raises(BadTokensFile):
        new_token("ann", "boss")


def test_beyond_loopback_there_is_no_admin_without_tokens(tmp_path: Path) -> None:
    remote: dict[str, Any] = {"sidecar_host": "0.0.0.0", "sidecar_allow_remote": True}
    with pytest.raises(BadTokensFile, match="VELTRIX_ADMIN_TOKENS_FILE"):
        admin_access(Settings(**remote))
    with pytest.raises(BadTokensFile, match="cannot be read"):
        admin_access(Settings(admin_tokens_file=tmp_path / "none"))
    file = tmp_path / "tokens"
    file.write_text(new_token("ann", "admin")[1])
    assert isinstance(admin_access(Settings(admin_tokens_file=file, **remote)), LogIn)
    provider: dict[str, Any] = {"admin_oidc_issuer": "https://login.example.org", "admin_oidc_audience": "veltrix"}
    assert isinstance(admin_access(Settings(**provider, **remote)), LogIn)
    assert isinstance(admin_access(Settings()), Everybody)


async def test_who_asks_too_often_waits_and_the_others_do_not(tokens: tuple[Path, dict[Role, str]]) -> None:
    app = application(LogIn([TokenFile(tokens[0])], Rates(1.0)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:

        async def answers(header: dict[str, str]) -> list[int]:
            return [(await client.get(f"{BASE}/queues", headers=header)).status_code for _ in range(3)]

        assert await answers(bearer(tokens[1]["viewer"])) == [404, 404, 429]
        assert await answers(bearer(tokens[1]["admin"])) == [404, 404, 429]
        assert await answers({}) == [401, 401, 429], "guessing has a limit as well"
        refused = await client.get(f"{BASE}/queues", headers=bearer(tokens[1]["viewer"]))
        assert (refused.headers["retry-after"], refused.json()["type"]) == ("1", "urn:veltrix:problem:too-many-requests")
        assert (await client.get("/livez")).status_code == 200


async def test_a_worker_beyond_loopback_shows_strangers_nothing_that_customers_sent(tmp_path: Path) -> None:
    remote: dict[str, Any] = {"sidecar_host": "0.0.0.0", "sidecar_allow_remote": True}
    file = tmp_path / "tokens"
    file.write_text(new_token("ann", "admin")[1])
    assert isinstance(worker_access(Settings()), Everybody)
    assert isinstance(worker_access(Settings(**remote)), Strangers)
    assert isinstance(worker_access(Settings(admin_tokens_file=file, **remote)), LogIn)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application(Strangers())), base_url="http://127.0.0.1") as client:
        found = [(await client.get(f"{BASE}{path}")).status_code for path in ("/records", f"/records/{ID}/raw", "/export")]
        changed = await client.post(f"{BASE}/discards", json={"reason": "r"})
    assert (found, changed.status_code) == ([404, 403, 403], 403)


def test_the_document_shows_an_example_of_all_that_can_be_asked() -> None:
    document = application(Everybody()).openapi()
    schemas, without = document["components"]["schemas"], list[str]()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                if not {"examples", "enum"} & parameter["schema"].keys():
                    without.append(f"{method} {path} {parameter['name']}")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
            named = schemas[body["$ref"].rpartition("/")[2]] if body else {"properties": {}}
            without += [f"{method} {path} {name}" for name, field in named["properties"].items() if "examples" not in field]
    assert without == []


@pytest.mark.parametrize("model", [GroupChange, Discard, Replay, Try, TryMany, FilterBody, Canary, DiscardJob, ReplayJob])
def test_an_example_is_a_body_that_is_taken(model: type[BaseModel]) -> None:
    fields = model.model_fields.items()
    body = {field.alias or name: (field.examples or [])[0] for name, field in fields}
    assert model.model_validate(body).model_fields_set == set(model.model_fields)

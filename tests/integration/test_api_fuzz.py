"""Requests made up from the OpenAPI documents: whatever is sent, no process answers that it has failed (schemathesis).

An answer may be a refusal; either has the type and the shape that the document says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.openapi import from_url
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from app.sidecar.middleware import ENDLESS
from deploy.local.ports import LOOPBACK
from tests.integration import truth
from tests.integration.conftest import MakeTopics, StartWorker
from tests.integration.test_admin import StartAdmin, admin, park, until

__all__ = ["admin"]

#: The same requests each time, and no shrinking: what failed is shown as it was sent.
made_up = settings(
    max_examples=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
Known = Mapping[str, Sequence[str]]
"""Names of path parameters to values that there are"""


def fuzz(url: str, known: Known) -> int:
    """Ask every operation of the document at ``url``, rightly and wrongly; how many there are."""
    schema, asked = from_url(f"{url}/openapi.json"), 0
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), "an operation that cannot be read"
        operation = found.ok()
        if operation.path in ENDLESS:
            continue
        ask(operation, GenerationMode.POSITIVE, known)
        with suppress(Unsatisfiable):  # nothing about it could be wrong: it has no parameter and no body
            ask(operation, GenerationMode.NEGATIVE, known)
        asked += 1
    return asked


def ask(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, known: Known) -> None:
    @made_up
    @given(operation.as_strategy(generation_mode=mode), st.integers(0, 9))
    def run(case: Case[Any], number: int) -> None:
        if number:  # nobody guesses an id
            for name in case.path_parameters.keys() & known.keys():
                case.path_parameters[name] = known[name][number % len(known[name])]
        answer = case.call(timeout=30)
        case.validate_response(answer, checks=[not_a_server_error, content_type_conformance, response_schema_conformance])

    run()


def test_no_made_up_request_makes_a_process_fail(topics: MakeTopics, worker: StartWorker, admin: StartAdmin) -> None:
    settings_, sent = topics(), truth.Sent()
    one = worker(settings_)
    park(settings_, one, sent)
    two = admin(settings_)
    two.wait_ready()
    until(lambda: len(two.records()) > 0, "the index has the letters")
    letters, job = two.records(), two.post("/replays", {"reason": "try", "max_records": 1})
    known = {
        "record_id": [letter["id"] for letter in letters],
        "fingerprint": sorted({letter["fingerprint"] for letter in letters}),
        "job_id": [job.json()["id"]],
        "user_id": [click.key.decode() for click in sent.clicks[:10]],
    }

    assert fuzz(one.url, known) > 10
    assert fuzz(f"http://{LOOPBACK}:{two.port}", known) > 20
    assert (one.is_ready(), two.is_ready()) == (True, True)
    assert one.terminate() == 0

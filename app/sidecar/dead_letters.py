"""Dead letters over HTTP, read-only: queues, pages of records, one record with everything it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AwareDatetime

from app.dead_letters.api import (
    DeadLetterRecord,
    DeadLetters,
    DeadLettersUnavailable,
    Filters,
    InvalidQuery,
    UnknownQueue,
    UnknownRecord,
)
from app.dead_letters.roles import Caller
from app.sidecar.access import PAYLOAD_READER, Access, Asker, identified, require
from app.sidecar.dead_letter_requests import QueueName, RecordId
from app.sidecar.dead_letter_views import PageView, QueuesView, RecordView, page_view, queue_view, record_view
from app.sidecar.masking import Masks
from app.sidecar.problems import Problem

DEFAULT_LIMIT, MAX_LIMIT = 50, 500
#: Opaque: the ``next_cursor`` of the page before.
CURSOR = ["eyJ2IjoxfQ"]


def text(example: str, **changes: Any) -> Any:
    """A query parameter of some words."""
    return Query(max_length=1024, examples=[example], **changes)


def filters(
    stage: Annotated[str | None, text("validate")] = None,
    reason: Annotated[str | None, text("invalid_timestamp")] = None,
    disposition: Annotated[str | None, text("invalid")] = None,
    fingerprint: Annotated[str | None, text("9f86d081884c7d65")] = None,
    exception_class: Annotated[str | None, text("ValueError", alias="class")] = None,
    version: Annotated[str | None, text("1.4.1")] = None,
    key: Annotated[str | None, text("user-000042")] = None,
    failed_after: Annotated[AwareDatetime | None, Query(examples=["2026-01-05T10:00:00Z"])] = None,
    failed_before: Annotated[AwareDatetime | None, Query(examples=["2026-01-05T12:00:00Z"])] = None,
    status: Annotated[str | None, text("pending")] = None,
    q: Annotated[str | None, text("Order Completed")] = None,
) -> Filters:
    """The query parameters that narrow a list; each must match exactly. `q` holds words, and `status` and `q` ask `veltrix admin`."""
    return Filters(
        stage=stage,
        reason=reason,
        disposition=disposition,
        fingerprint=fingerprint,
        exception_class=exception_class,
        app_version=version,
        key=None if key is None else key.encode(),
        failed_after_ms=epoch_ms(failed_after),
        failed_before_ms=epoch_ms(failed_before),
        status=status,
        query=q,
    )


def check_filters(narrowed: Filters, caller: Caller, hidden: Masks) -> None:
    """What can be searched for can be guessed. Raises Problem 403."""
    if narrowed.query is not None or (narrowed.key is not None and hidden.hides_keys):
        require(caller, "payload-reader")


def dead_letters_router(reader: DeadLetters, default_queue: str, access: Access, hidden: Masks) -> APIRouter:
    """``/dlq/queues`` and ``/dlq/records``. ``hidden``: what those without the role payload-reader do not see."""
    router = APIRouter(prefix="/dlq", tags=["dead letters"], dependencies=[identified(access)])

    async def one(record_id: str) -> DeadLetterRecord:
        with read_problems():
            found = await reader.record(record_id)
            if found is None:
                raise UnknownRecord.letter(record_id)
            return found

    @router.get("/queues")
    async def queues() -> QueuesView:
        """Every dead letter queue of this application."""
        with read_problems():
            return QueuesView(queues=[queue_view(queue) for queue in await reader.queues()])

    @router.get("/records")
    async def records(
        narrowed: Annotated[Filters, Depends(filters)],
        caller: Asker,
        queue: QueueName = None,
        limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, examples=[50])] = DEFAULT_LIMIT,
        cursor: Annotated[str | None, Query(max_length=4096, examples=CURSOR)] = None,
    ) -> PageView:
        """Newest first, without values. Go on with `next_cursor` until it is null."""
        check_filters(narrowed, caller, hidden)
        with read_problems():
            page = page_view(await reader.records(queue or default_queue, limit, cursor, narrowed))
        return page if caller.may("payload-reader") else hidden.page(page)

    @router.get("/records/{record_id}")
    async def record(record_id: RecordId, caller: Asker) -> RecordView:
        """One record by `topic:partition:offset`: original bytes, all headers, decoded where possible.

        Values of the record and of its own headers are for `payload-reader`; others get the rest, masked.
        """
        view = record_view(await one(record_id))
        return view if caller.may("payload-reader") else hidden.record(view)

    @router.get("/records/{record_id}/raw", response_class=Response, dependencies=[PAYLOAD_READER])
    async def raw(record_id: RecordId) -> Response:
        """The original bytes and nothing else; 204 for a null value."""
        found = await one(record_id)
        if found.value is None:
            return Response(status_code=204)
        return Response(found.value, media_type="application/octet-stream", headers={"content-disposition": "attachment"})

    return router


@contextmanager
def read_problems() -> Iterator[None]:
    """What can go wrong with looking at dead letters, as an answer."""
    try:
        yield
    except UnknownRecord as exc:
        raise Problem(404, "unknown-record", str(exc)) from exc
    except UnknownQueue as exc:
        raise Problem(404, "unknown-queue", str(exc)) from exc
    except InvalidQuery as exc:
        raise Problem(422, "invalid-request", str(exc)) from exc
    except DeadLettersUnavailable as exc:
        raise Problem(503, "dead-letters-unavailable", str(exc), headers={"retry-after": "5"}) from exc


def epoch_ms(moment: AwareDatetime | None) -> int | None:
    """None stays None."""
    return None if moment is None else int(moment.timestamp() * 1000)

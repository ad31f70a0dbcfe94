"""Taking dead letters and their audit away over HTTP: NDJSON, a bounded piece a call."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel

from app.dead_letters.api import Filters
from app.dead_letters.audit import AuditReader
from app.dead_letters.index.service import DeadLetterIndex
from app.sidecar.access import PAYLOAD_READER, Access, identified
from app.sidecar.dead_letter_deeds import problems
from app.sidecar.dead_letter_requests import QueueName
from app.sidecar.dead_letter_views import record_view
from app.sidecar.dead_letters import CURSOR, filters

NDJSON = "application/x-ndjson"
NEXT_CURSOR = "x-next-cursor"


class AuditAnswer(BaseModel):
    """Newest first. Go on with `before` = `next_before` until it is null; a page may be short before that."""

    events: list[dict[str, Any]]
    next_before: int | None


def exports_router(index: DeadLetterIndex, audit: AuditReader, access: Access, default_queue: str) -> APIRouter:
    """``/dlq/export`` and ``/dlq/audit``."""
    router = APIRouter(prefix="/dlq", tags=["dead letters"], dependencies=[identified(access)])

    @router.get("/export", response_class=Response, dependencies=[PAYLOAD_READER])
    async def export(
        narrowed: Annotated[Filters, Depends(filters)],
        queue: QueueName = None,
        limit: Annotated[int, Query(ge=1, le=500, examples=[200])] = 200,
        cursor: Annotated[str | None, Query(max_length=64, examples=CURSOR)] = None,
    ) -> Response:
        """Whole letters, one JSON object a line, newest first. The header `x-next-cursor` leads on; it is absent at the end."""
        with problems():
            page = await index.records(queue or default_queue, limit, cursor, narrowed)
            letters = await index.letters(page.records)
        lines = [record_view(letter).model_dump_json() + "\n" for letter in letters if letter is not None]
        headers = {} if page.next_cursor is None else {NEXT_CURSOR: page.next_cursor}
        return Response("".join(lines), media_type=NDJSON, headers=headers)

    @router.get("/audit")
    async def audited(
        limit: Annotated[int, Query(ge=1, le=500, examples=[50])] = 50,
        before: Annotated[int | None, Query(ge=0, examples=[1042])] = None,
    ) -> AuditAnswer:
        """Who did what."""
        with problems():
            page = await audit.page(limit, before)
        return AuditAnswer(events=list(page.events), next_before=page.next_before)

    return router

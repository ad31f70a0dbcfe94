"""Jobs over many dead letters over HTTP: replay and discard, in bulk, with a look before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from fastapi import APIRouter, Response
from pydantic import BaseModel

from app.dead_letters.api import Filters
from app.dead_letters.headers import rfc3339
from app.dead_letters.job_board import JobBoard, JobConflict, JobOrder, JobView, Order, UnknownJob
from app.sidecar.access import ADMIN, OPERATOR, Access, Asker, identified, require
from app.sidecar.dead_letter_deeds import problems
from app.sidecar.dead_letter_requests import DiscardJob, FilterBody, IdempotencyKey, JobId, ReplayJob
from app.sidecar.dead_letters import epoch_ms
from app.sidecar.problems import Problem


class JobAnswer(BaseModel):
    """A job. `failed_again` are those of `sent` that are dead letters again; `succeeded` are the others, once they were processed."""

    id: str | None
    kind: str
    queue: str
    state: str
    reason: str
    by: str
    created_at: str
    updated_at: str | None
    matched: int
    sent: int
    succeeded: int
    failed_again: int
    skipped: int
    exhausted: int
    discarded: int
    rate_per_second: float
    note: str | None


class JobsAnswer(BaseModel):
    """Newest first."""

    jobs: list[JobAnswer]


def jobs_router(board: JobBoard, access: Access, default_queue: str) -> APIRouter:
    """``/dlq/replays`` and ``/dlq/discards``."""
    router = APIRouter(prefix="/dlq", tags=["dead letter jobs"], dependencies=[identified(access)])

    async def begin(order: JobOrder, response: Response, *, dry_run: bool) -> JobAnswer:
        with job_problems():
            if dry_run:
                job = await board.planned(order)
                return job_answer(JobView(job, 0)).model_copy(update={"id": None, "state": "DRY_RUN"})
            view, is_new = await board.start(order)
        response.status_code = 202 if is_new else 200
        response.headers["location"] = f"/api/v1/dlq/replays/{view.job.id}"
        return job_answer(view)

    @router.post("/replays", status_code=202, dependencies=[OPERATOR])
    async def replay(request: ReplayJob, response: Response, caller: Asker, key: IdempotencyKey = None) -> JobAnswer:
        """Start a replay. One job works on a queue at a time. With a patch, or by force: for `admin`."""
        if request.patch is not None or request.force:
            require(caller, "admin")
        settings = {
            "rate_per_second": request.rate_per_second, "max_records": request.max_records, "canary_size": request.canary.size,
            "canary_min_success": request.canary.min_success, "max_lag": request.max_lag, "patch": request.patch, "force": request.force,
        }  # fmt: skip
        filters = filters_of(request.filter, request.max_age_ms)
        order = JobOrder("replay", request.queue or default_queue, filters, request.reason, caller.name, settings, key)
        return await begin(order, response, dry_run=request.dry_run)

    @router.post("/discards", status_code=202, dependencies=[ADMIN])
    async def discard(request: DiscardJob, response: Response, caller: Asker, key: IdempotencyKey = None) -> JobAnswer:
        """Discard many."""
        settings = {"rate_per_second": board.max_rate, "max_records": request.max_records}
        order = JobOrder(
            "discard", request.queue or default_queue, filters_of(request.filter), request.reason, caller.name, settings, key
        )
        return await begin(order, response, dry_run=request.dry_run)

    @router.get("/replays")
    async def jobs() -> JobsAnswer:
        """Every job there was, as long as the state topic keeps it."""
        with job_problems():
            return JobsAnswer(jobs=[job_answer(view) for view in await board.views()])

    @router.get("/replays/{job_id}")
    async def job(job_id: JobId) -> JobAnswer:
        """One job."""
        with job_problems():
            return job_answer(await board.view(job_id))

    @router.post("/replays/{job_id}/{order}", dependencies=[OPERATOR])
    async def control(job_id: JobId, order: Order) -> JobAnswer:
        """`pause` ends it between two steps; `resume` goes on and pauses for lag alone, somebody has looked; `cancel` ends it for good."""
        with job_problems():
            return job_answer(await board.control(job_id, order))

    return router


def filters_of(body: FilterBody, max_age_ms: int | None = None) -> Filters:
    """``body`` for the index; ``max_age_ms``: nothing that failed earlier than so long ago."""
    after = epoch_ms(body.failed_after)
    if max_age_ms is not None:
        after = max(after or 0, time.time_ns() // 1_000_000 - max_age_ms)
    return Filters(
        stage=body.stage,
        reason=body.reason,
        disposition=body.disposition,
        fingerprint=body.fingerprint,
        exception_class=body.exception_class,
        app_version=body.version,
        key=None if body.key is None else body.key.encode(),
        failed_after_ms=after,
        failed_before_ms=epoch_ms(body.failed_before),
        status=body.status,
        query=body.q,
    )


def job_answer(view: JobView) -> JobAnswer:
    """``view`` as JSON."""
    job = view.job
    times = {"created_at": rfc3339(job.created_ms), "updated_at": rfc3339(job.updated_ms) if job.updated_ms else None}
    outcome = {"failed_again": view.failed_again, "succeeded": max(0, job.sent - view.failed_again)}
    return JobAnswer.model_validate(msgspec.structs.asdict(job) | times | outcome)


@contextmanager
def job_problems() -> Iterator[None]:
    """What can go wrong with a job, as an answer."""
    try:
        with problems():
            yield
    except UnknownJob as exc:
        raise Problem(404, "unknown-job", str(exc)) from exc
    except JobConflict as exc:
        raise Problem(409, "job-conflict", str(exc), {"job": exc.job}) from exc

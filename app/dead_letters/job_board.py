"""All jobs of this application: made, run one at a time per queue, paused, taken up again after a restart."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import structlog

from app.dead_letters.api import DeadLettersUnavailable, Filters, InvalidQuery
from app.dead_letters.deeds import Fenced, Written
from app.dead_letters.desk import audit_record
from app.dead_letters.index.queries import IndexReader
from app.dead_letters.index.states import job_key
from app.dead_letters.jobs import Job, JobKind, decode_job, encode_filters, encode_job
from app.dead_letters.json_patch import PatchFailed, check_patch
from app.dead_letters.replayer import Replayer, Tools

log = structlog.get_logger(__name__)

#: Wait before a job whose Kafka is away is tried again, seconds.
BACK_OFF_S: Final = 2.0
_NAMESPACE: Final = uuid.UUID("5b0f8a0e-7f0b-4c1e-9d43-0a6f3a1b7d11")

Order = Literal["pause", "resume", "cancel"]


class UnknownJob(Exception):
    """There is no such job."""


class JobConflict(Exception):
    """Another job works on the queue, or the job is over. ``job``: which one."""

    def __init__(self, message: str, job: str) -> None:
        super().__init__(message)
        self.job = job


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What a new job is to do. ``settings`` are fields of :class:`app.dead_letters.jobs.Job`."""

    kind: JobKind
    queue: str
    filters: Filters
    reason: str
    by: str
    settings: Mapping[str, Any]
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class JobView:
    """A job and what became of what it sent."""

    job: Job
    failed_again: int


class JobBoard:
    """The jobs of this process. ``start`` makes one, ``resume_all`` takes up those that a killed process left."""

    def __init__(self, tools: Tools, max_rate: float) -> None:
        self._tools, self.max_rate = tools, max_rate
        self._running: dict[str, tuple[Replayer, asyncio.Task[None]]] = {}
        self._lock = asyncio.Lock()

    async def start(self, order: JobOrder) -> tuple[JobView, bool]:
        """Make a job and run it; whether it is new: the same key gives the same job.

        Raises:
            JobConflict: one is active on this queue.
            InvalidQuery: rate or patch cannot be.
            UnknownQueue, DeadLettersUnavailable
        """
        job = await self.planned(order)
        async with self._lock:
            for known in await self._all():
                if known.id == job.id:
                    return await self.view(known.id), False
                if known.queue == job.queue and known.is_active:
                    raise JobConflict(f"job {known.id} is {known.state} on {job.queue}: one at a time; cancel it or wait", known.id)
            details = {"matched": job.matched, "filters": job.filters}
            topic = self._tools.topics.audit
            await self._save(job, audit_record(topic, job.by, job.kind, job.id, "started", job.reason, details, job.created_ms))
            self._run(job)
        return await self.view(job.id), True

    async def planned(self, order: JobOrder) -> Job:
        """The job as it would be; nothing is written. ``matched`` says how many letters it would work on."""
        key = order.idempotency_key
        number = uuid.uuid5(_NAMESPACE, f"{order.queue}\0{key}") if key is not None else uuid.uuid4()
        job = Job(
            id=f"{order.kind}-{number.hex[:16]}", queue=order.queue, state="RUNNING", kind=order.kind,
            filters=encode_filters(order.filters), reason=order.reason, by=order.by,
            created_ms=time.time_ns() // 1_000_000 + 1, matched=0, **order.settings,
        )  # fmt: skip
        if not 0 < job.rate_per_second <= self.max_rate:
            raise InvalidQuery(f"rate_per_second: above 0, at most {self.max_rate:g} (VELTRIX_DLQ_REPLAY_MAX_PER_S)")
        try:
            if job.patch is not None:
                check_patch(job.patch)
        except PatchFailed as exc:
            raise InvalidQuery(f"patch: {exc}") from exc
        matched = await self._tools.index.count(job.queue, job.wanted)
        return msgspec.structs.replace(job, matched=matched if job.max_records is None else min(matched, job.max_records))

    async def control(self, job_id: str, order: Order) -> JobView:
        """Pause, resume or cancel.

        Raises:
            UnknownJob; JobConflict: it is over; DeadLettersUnavailable
        """
        async with self._lock:
            job = await self._known(job_id)
            if not job.is_active:
                raise JobConflict(f"{job_id} is {job.state}: there is nothing to {order}", job_id)
            if order == "resume":
                await self._resume(job)
            else:
                await self._stop(job, "PAUSED" if order == "pause" else "CANCELLED")
        return await self.view(job_id)

    async def view(self, job_id: str) -> JobView:
        """One job.

        Raises:
            UnknownJob
        """
        job = await self._known(job_id)
        return JobView(job, await self._tools.index.look(lambda index: index.failed_again(job_id)))

    async def views(self) -> list[JobView]:
        """Every job, newest first."""
        jobs = sorted(await self._all(), key=lambda job: -job.created_ms)
        return [await self.view(job.id) for job in jobs]

    async def resume_all(self) -> None:
        """Take up what was RUNNING when the process before ended; the index must be up with Kafka.

        The step that was under way when it ended may still be committed, or not: that is settled first.
        """
        async with self._lock:
            for left in [job for job in await self._all() if job.state == "RUNNING" and job.id not in self._running]:
                job = await self._settled(left.id)
                log.info("replay_job_taken_up", job=job.id, sent=job.sent, matched=job.matched)
                self._run(job)

    async def aclose(self) -> None:
        """Stop between two steps; the jobs stay RUNNING for the next process."""
        tasks = [task for _, task in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- one job ----------------------------------------------------------------------------------

    async def _resume(self, job: Job) -> None:
        if job.state != "PAUSED":
            return
        # What failed so far was looked at by a person: the canary is not asked for again.
        job = msgspec.structs.replace(job, state="RUNNING", note=None, is_canary_passed=True, canary_min_success=0.0)
        await self._save(job)
        self._run(job)

    async def _stop(self, job: Job, state: Literal["PAUSED", "CANCELLED"]) -> None:
        running = self._running.get(job.id)
        if running is not None:
            replayer, task = running
            replayer.stop = state
            await asyncio.wait([task])
        job = await self._known(job.id)
        if job.is_active and job.state != state:
            await self._save(msgspec.structs.replace(job, state=state))

    def _run(self, job: Job) -> None:
        replayer = Replayer(job, self._tools)
        task = asyncio.get_running_loop().create_task(self._carry_through(replayer), name=job.id)
        self._running[job.id] = replayer, task

    async def _carry_through(self, replayer: Replayer) -> None:
        """Until it has ended. While Kafka is away it is tried again, from what the index then says."""
        job_id = replayer.job.id
        try:
            while True:
                try:
                    await replayer.run()
                except Fenced as exc:
                    log.error("replay_job_given_up", job=job_id, reason=str(exc))
                except DeadLettersUnavailable as exc:
                    log.warning("replay_job_waits", job=job_id, reason=str(exc))
                    await asyncio.sleep(BACK_OFF_S)
                    replayer.job = await self._settled(job_id)
                    continue
                return
        except Exception as exc:
            log.exception("replay_job_failed", job=job_id)
            failed = msgspec.structs.replace(replayer.job, state="FAILED", note=f"{type(exc).__name__}: {exc}")
            await self._save(failed)
        finally:
            self._running.pop(job_id, None)

    async def _settled(self, job_id: str) -> Job:
        """How far the job is by what was really written: a failed answer, or none, does not say whether the step was.

        A record of a new transaction comes behind everything that was; when it is folded in, so is all before it.
        """
        while True:
            try:
                (place,) = await self._tools.deeds.write([Written(self._tools.topics.state, b"settled", None)])
                if await self._tools.follower.folded(*place):
                    return await self._known(job_id)
            except Fenced:
                raise
            except DeadLettersUnavailable as exc:
                log.info("replay_job_waits", job=job_id, reason=str(exc))
                await asyncio.sleep(BACK_OFF_S)

    # -- records ----------------------------------------------------------------------------------

    async def _save(self, job: Job, *others: Written) -> None:
        job = msgspec.structs.replace(job, updated_ms=time.time_ns() // 1_000_000)
        places = await self._tools.deeds.write([Written(self._tools.topics.state, job_key(job.id), encode_job(job)), *others])
        if not await self._tools.follower.folded(*places[0]):
            raise DeadLettersUnavailable("it is done, but the index of this process is behind and does not show it yet")

    async def _known(self, job_id: str) -> Job:
        raw = await self._tools.index.look(lambda index: index.job(job_id))
        if raw is None:
            raise UnknownJob(f"there is no job {job_id}")
        return decode_job(raw)

    async def _all(self) -> list[Job]:
        return [decode_job(raw) for raw in await self._tools.index.look(IndexReader.jobs)]

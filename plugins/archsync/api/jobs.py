"""Jobs: listed, counted, looked at, found."""

from __future__ import annotations

import bisect
import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from archsync.api.access import Actor, Right, guarded_router, needs
from archsync.api.fields import JobId, Name
from archsync.api.job_views import detail_out, hexadecimal, job_out, jobs_out
from archsync.api.models_jobs import (
    AskForPatient,
    InstanceOut,
    InstancePage,
    JobCounts,
    JobDetail,
    JobPage,
    JobQuery,
    UnmaskedMessage,
    UnmaskedMessages,
)
from archsync.api.pages import Cursor, Limit, read_cursor, revalidated, write_cursor
from archsync.api.sites import LedgerDep, Now, PlatformDep
from archsync.errors import InvalidInput
from archsync.ledger import job_pages
from archsync.ledger import jobs as store
from archsync.ledger.database import Ledger
from archsync.services.dispatch import explain
from archsync.services.explain import describe_job
from archsync.services.job_instances import instances_of
from archsync.services.message_view import describe_messages

Responses = dict[int | str, dict[str, Any]]

router = guarded_router("jobs")

#: Counting goes no further in each status.
COUNT_CAP = 1000
_EXPORT_PAGE = 200
_UNCHANGED: Responses = {304: {"description": "As the answer that has the ETag in `If-None-Match`."}}
_NO_JOB: Responses = {404: {"description": "There is no such job."}}


class PagedJobQuery(JobQuery):
    """The same, a page at a time."""

    cursor: Cursor | None = None
    limit: Limit = 50


@router.get("/jobs", dependencies=[needs(Right.READ)], response_model=JobPage, responses=_UNCHANGED)
def list_jobs(request: Request, ledger: LedgerDep, now: Now, query: Annotated[PagedJobQuery, Query()]) -> Response:
    """List jobs, newest first. Cheap to ask again: an unchanged page is answered with 304."""
    wanted = replace(query.as_filter(), before=read_cursor(query.cursor, int), limit=query.limit + 1)
    listed = store.listing(ledger, wanted)
    shown = listed[: query.limit]
    has_more = len(listed) > len(shown)
    last = shown[-1].job if has_more else None
    page = JobPage(
        items=jobs_out(request, explain(ledger, shown, now=now)),
        next_cursor=write_cursor((last.created_at, last.job_id)) if last else None,
    )
    return revalidated(request, page)


@router.get("/jobs/counts", dependencies=[needs(Right.READ)], response_model=JobCounts, responses=_UNCHANGED)
def count_jobs(request: Request, ledger: LedgerDep, query: Annotated[JobQuery, Query()]) -> Response:
    """Count the jobs that match in each status, whatever status the filter names."""
    counts = job_pages.count(ledger, replace(query.as_filter(), statuses=()), cap=COUNT_CAP)
    return revalidated(request, JobCounts(counts=counts, capped_at=COUNT_CAP))


@router.get(
    "/jobs.csv",
    dependencies=[needs(Right.READ)],
    response_class=Response,
    responses={200: {"description": "All jobs that match, newest first.", "content": {"text/csv": {}}}},
)
def export_jobs(request: Request, ledger: LedgerDep, now: Now, query: Annotated[JobQuery, Query()]) -> Response:
    """Export jobs as CSV, with a heading. The columns are those of a job in the list."""
    wanted = replace(query.as_filter(), limit=_EXPORT_PAGE)
    first = store.listing(ledger, wanted)  # an error is answered as one, before anything is sent

    def lines() -> Iterator[str]:
        yield _csv_line(_CSV_COLUMNS)
        page = first
        while page:
            for item in explain(ledger, page, now=now):
                out = job_out(request, item).model_dump(mode="json")
                yield _csv_line([out[name] for name in _CSV_COLUMNS])
            last = page[-1].job
            page = store.listing(ledger, replace(wanted, before=(last.created_at, last.job_id)))

    headers = {"Content-Disposition": 'attachment; filename="jobs.csv"'}
    return StreamingResponse(lines(), media_type="text/csv; charset=utf-8", headers=headers)


_CSV_COLUMNS = [
    "job_id", "type", "status", "wait_reason", "destination", "gateway", "facility", "priority", "study_instance_uid",
    "about", "instances_total", "instances_done", "instances_failed", "bytes_total", "bytes_done", "attempts",
    "created_at", "started_at", "finished_at", "next_attempt_at", "reason_code", "reason",
]  # fmt: skip


def _csv_line(values: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(values)
    return text.getvalue()


@router.get("/jobs/by-run", dependencies=[needs(Right.READ)], responses=_NO_JOB)
def read_job_of_run(
    request: Request,
    ledger: LedgerDep,
    now: Now,
    dag_id: Annotated[Name, Query()],
    run_id: Annotated[Name, Query()],
) -> JobDetail:
    """The job that a DAG run of Airflow works on."""
    job_id = store.by_run(ledger, dag_id=dag_id, run_id=run_id)
    if job_id is None:
        raise InvalidInput(
            "no job belongs to this run", code="unknown-job", next_step="Only runs of archsync's DAGs have jobs."
        )
    return _read(request, ledger, job_id, now)


@router.get(
    "/jobs/{job_id}", dependencies=[needs(Right.READ)], response_model=JobDetail, responses=_NO_JOB | _UNCHANGED
)
def read_job(request: Request, ledger: LedgerDep, now: Now, job_id: JobId) -> Response:
    """One job with its attempts, steps, what it waits for and who waits for it, its notes and messages."""
    return revalidated(request, _read(request, ledger, job_id, now))


def _read(request: Request, ledger: Ledger, job_id: int, now: Now) -> JobDetail:
    found = describe_job(ledger, job_id, now=now)
    return detail_out(request, found, store.attempts(ledger, job_id), store.failures(ledger, job_id))


@router.post("/jobs/{job_id}/message", dependencies=[needs(Right.PATIENT_DATA)], responses=_NO_JOB)
def show_message(ledger: LedgerDep, actor: Actor, job_id: JobId, asked: AskForPatient) -> UnmaskedMessages:  # noqa: ARG001  (validated)
    """The HL7 messages of a job as they were sent, with the patient. Audited."""
    store.get(ledger, job_id)
    return UnmaskedMessages(
        messages=[
            UnmaskedMessage(control_id=m.control_id, trigger=m.trigger_event, text=m.text)
            for m in describe_messages(ledger, job_id, phi=True, actor=actor)
        ]
    )


@router.get("/jobs/{job_id}/instances", dependencies=[needs(Right.READ)], responses=_NO_JOB)
def list_instances(
    ledger: LedgerDep,
    platform: PlatformDep,
    job_id: JobId,
    cursor: Annotated[str | None, Query(pattern=r"^[0-9.]{1,64}$")] = None,
    limit: Annotated[int, Field(ge=1, le=1000), Query()] = 100,
) -> InstancePage:
    """The instances that a job is about, by SOP Instance UID, each with what became of it at the destination."""
    found = instances_of(ledger, platform, store.get(ledger, job_id))
    begin = 0 if cursor is None else bisect.bisect_right(found.states, cursor, key=lambda s: s.sop_instance_uid)
    shown = found.states[begin : begin + limit]
    return InstancePage(
        items=[
            InstanceOut(
                sop_instance_uid=s.sop_instance_uid,
                series_instance_uid=s.series_instance_uid,
                status=s.status,
                stored_at=s.stored_at,
                store_status=hexadecimal(s.store_status),
                code=s.code,
                message=s.message,
            )
            for s in shown
        ],
        next_cursor=shown[-1].sop_instance_uid if begin + limit < len(found.states) else None,
        total=len(found.states),
        is_complete=found.is_complete,
    )

"""The overview: what went on lately, what there is to do, and who is down."""

from __future__ import annotations

from datetime import datetime

from fastapi import Request, Response
from pydantic import BaseModel, Field

from archsync.api.access import Right, guarded_router, needs
from archsync.api.links import troubleshooting_url
from archsync.api.pages import UNCHANGED, revalidated
from archsync.api.sites import LedgerDep, Now
from archsync.core.job import JobStatus
from archsync.core.naming import DagKind
from archsync.services import overview

router = guarded_router("overview")

_memory = overview.HourMemory()


class HourOut(BaseModel):
    """One hour, by its beginning."""

    hour: datetime
    made: int = Field(description="Jobs that were made in it.")
    counts: dict[JobStatus, int] = Field(description="Jobs that ended in it, by the status they have.")


class BacklogOut(BaseModel):
    """What there is to do at a destination."""

    destination: str
    enabled: bool
    waiting: int = Field(description="Jobs that are waiting, ready or retrying.")
    oldest_waiting_at: datetime | None
    running: int
    failed: int
    is_capped: bool


class OutageOut(BaseModel):
    """A peer that is down. Images and rejection notes go to the same one: `archive`."""

    destination: str
    kind: DagKind
    since: datetime
    reason: str | None
    reason_code: str | None
    troubleshooting_url: str | None


class OverviewOut(BaseModel):
    """The last 48 hours, oldest first, the backlog by destination, outages, and undone jobs by status."""

    jobs_per_hour: list[HourOut]
    backlog: list[BacklogOut]
    outages: list[OutageOut]
    totals: dict[JobStatus, int]
    is_capped: bool


@router.get("/overview", dependencies=[needs(Right.READ)], response_model=OverviewOut, responses=UNCHANGED)
def read_overview(request: Request, ledger: LedgerDep, now: Now) -> Response:
    """Sum up what went on, what there is to do and who is down."""
    found = overview.describe_all(ledger, now=now, memory=_memory)
    answer = OverviewOut(
        jobs_per_hour=[HourOut(hour=hour.started_at, made=hour.made, counts=dict(hour.ended)) for hour in found.hours],
        backlog=[
            BacklogOut(
                destination=item.destination.name,
                enabled=item.destination.enabled,
                waiting=item.load.queue_depth,
                oldest_waiting_at=item.load.oldest_waiting_at,
                running=item.load.by_status.get(JobStatus.RUNNING, 0),
                failed=item.load.by_status.get(JobStatus.FAILED, 0),
                is_capped=item.load.is_capped,
            )
            for item in found.destinations
        ],
        outages=[
            OutageOut(
                destination=outage.destination,
                kind=outage.kind,
                since=outage.since,
                reason=outage.reason,
                reason_code=outage.reason_code,
                troubleshooting_url=troubleshooting_url(request, outage.reason_code) if outage.reason_code else None,
            )
            for outage in found.outages
        ],
        totals=found.totals,
        is_capped=any(item.load.is_capped for item in found.destinations),
    )
    return revalidated(request, answer)

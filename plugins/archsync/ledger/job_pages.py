"""Which jobs a page shows: by any filter, newest first, in the time of a few index probes however many jobs there are.

Newest is by ``created_at``, then by number. Every query here names the index behind it; ``benchmarks/pages.py`` holds
them to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from archsync.core.job import FAR_FUTURE, JobStatus, JobType
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("job_pages")

#: Where a job stands in the order of the pages: when it was made, and its number.
Place = tuple[datetime, int]

_ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list; empty fields match all.

    ``gateways`` stands for the destinations behind them. ``until`` is the first moment that is too late. ``before`` is
    where the page before ended; ``before_job_id`` says the same by a job's number.
    """

    job_types: Sequence[JobType] = ()
    statuses: Sequence[JobStatus] = ()
    destinations: Sequence[str] = ()
    gateways: Sequence[str] = ()
    facilities: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    study_instance_uid: str | None = None
    job_ids: Sequence[int] = ()
    before: Place | None = None
    before_job_id: int | None = None
    limit: int = 100


def find(ledger: Ledger, wanted: JobFilter) -> list[int]:
    """The numbers of the jobs that match, newest first."""
    before = wanted.before
    if wanted.before_job_id is not None:
        row = ledger.fetch_one(SQL["place"], {"job_id": wanted.before_job_id})
        if row is None:
            return []
        before = (row["created_at"], wanted.before_job_id)
    # No job's number is below 1: before the first one of a moment is before that moment.
    ends = [end for end in (before, (wanted.until, 0) if wanted.until else None) if end is not None]
    before_at, before_job_id = min(ends, default=(FAR_FUTURE, 0))
    narrowed = {
        **_parameters(wanted),
        "before_at": before_at,
        "before_job_id": before_job_id,
        "limit": wanted.limit,
    }
    if wanted.job_ids or wanted.study_instance_uid:
        rows = ledger.fetch_all(SQL["by_subject"], narrowed)
    elif wanted.facilities and (wanted.destinations or wanted.gateways):
        rows = ledger.fetch_all(SQL["by_facility_destination"], narrowed)
    elif wanted.facilities:
        rows = ledger.fetch_all(SQL["by_facility"], narrowed)
    elif wanted.destinations or wanted.gateways:
        rows = ledger.fetch_all(SQL["by_destination"], narrowed)
    elif wanted.job_types or wanted.statuses:
        rows = ledger.fetch_all(SQL["by_kind"], narrowed)
    else:
        rows = ledger.fetch_all(SQL["newest"], narrowed)
    return [row["job_id"] for row in rows]


def count(ledger: Ledger, wanted: JobFilter, *, cap: int) -> dict[JobStatus, int]:
    """How many jobs that match are in each status that is asked for; ``cap`` means that many or more."""
    narrowed = {**_parameters(wanted), "until": wanted.until or FAR_FUTURE, "cap": cap}
    if wanted.job_ids or wanted.study_instance_uid:
        rows = ledger.fetch_all(SQL["count_by_subject"], narrowed)
    elif wanted.facilities and (wanted.destinations or wanted.gateways):
        rows = ledger.fetch_all(SQL["count_by_facility_destination"], narrowed)
    elif wanted.facilities:
        rows = ledger.fetch_all(SQL["count_by_facility"], narrowed)
    elif wanted.destinations or wanted.gateways:
        rows = ledger.fetch_all(SQL["count_by_destination"], narrowed)
    else:
        rows = ledger.fetch_all(SQL["count_by_kind"], narrowed)
    found = dict.fromkeys(wanted.statuses or JobStatus, 0)
    return found | {JobStatus(row["status"]): min(row["jobs"], cap) for row in rows}


def facilities(ledger: Ledger) -> list[str]:
    """The facilities that jobs are of."""
    return [row["facility_id"] for row in ledger.fetch_all(SQL["facilities"])]


def _parameters(wanted: JobFilter) -> Mapping[str, Any]:
    return {
        "job_types": [t.value for t in wanted.job_types or JobType],
        "statuses": [s.value for s in wanted.statuses or JobStatus],
        "destinations": list(wanted.destinations) or None,
        "gateways": list(wanted.gateways) or None,
        "facilities": list(wanted.facilities) or None,
        "study_instance_uid": wanted.study_instance_uid,
        "job_ids": list(wanted.job_ids) or None,
        "since": wanted.since or _ALWAYS,
    }

"""How much there is to do, and what was done lately, at all destinations at once: a fixed number of queries."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from archsync.core.job import JobStatus, JobType
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("overview")

MOST = 10_000
"""More jobs of one destination, type and status than this are not counted: there are at least so many."""


EXACT_UP_TO = 1_000
"""No more instances of a destination than this are counted."""


@dataclass(frozen=True, slots=True)
class JobCount:
    """Jobs of one destination, type and status, at most :data:`MOST`; ``oldest_at`` is when the first was made."""

    destination_id: int
    destination: str
    job_type: JobType
    status: JobStatus
    jobs: int
    oldest_at: datetime


def counts(ledger: Ledger, statuses: Collection[JobStatus] = tuple(JobStatus)) -> list[JobCount]:
    """Count jobs per destination, type and status; combinations without jobs are left out."""
    wanted = {"job_types": _TYPES, "statuses": [s.value for s in statuses], "most": MOST}
    return [
        JobCount(
            destination_id=row["destination_id"],
            destination=row["destination"],
            job_type=JobType(row["job_type"]),
            status=JobStatus(row["status"]),
            jobs=row["jobs"],
            oldest_at=row["oldest_at"],
        )
        for row in ledger.fetch_all(SQL["counts"], wanted)
    ]


def answered(ledger: Ledger) -> set[tuple[int, JobType]]:
    """The destinations, by id, at which jobs of a type succeeded at least once."""
    rows = ledger.fetch_all(SQL["answered"], {"job_types": _TYPES})
    return {(row["destination_id"], JobType(row["job_type"])) for row in rows}


@dataclass(frozen=True, slots=True)
class Holding:
    """How many instances a destination holds, or may hold."""

    instances: int = 0
    is_estimate: bool = False


def holding(ledger: Ledger) -> dict[int, Holding]:
    """How much each destination holds, by id: estimated, or counted where PostgreSQL has not estimated yet.

    It has once some fifty rows came and a minute passed. Asking all partitions by their parent would plan them all.
    """
    rows = ledger.fetch_all(SQL["holding"])
    found = {
        row["destination_id"]: Holding(row["instances"], is_estimate=True) for row in rows if row["instances"] >= 0
    }
    new = [int(row["destination_id"]) for row in rows if row["instances"] < 0]
    if new:
        counted = " union all ".join(
            f"select {i} as destination_id, count(*) as instances"  # noqa: S608  (numbers of ours)
            f" from (select from held_instance_{i} limit {EXACT_UP_TO}) as found"
            for i in new
        )
        for row in ledger.fetch_all(counted):
            found[row["destination_id"]] = Holding(row["instances"], is_estimate=row["instances"] >= EXACT_UP_TO)
    return found


@dataclass(frozen=True, slots=True)
class Throughput:
    """What happened at a destination since a moment: jobs that ended, and what attempts that ended brought there.

    ``bytes_per_s`` is how fast it is sent to right now.
    """

    succeeded: int = 0
    failed: int = 0
    instances: int = 0
    size_bytes: int = 0
    bytes_per_s: int = 0


def throughput(ledger: Ledger, since: datetime) -> dict[int, Throughput]:
    """What happened since a moment, by destination id; absent: nothing."""
    wanted = {"since": since}
    finished = {row["destination_id"]: row for row in ledger.fetch_all(SQL["finished_since"], wanted)}
    sent = {row["destination_id"]: row for row in ledger.fetch_all(SQL["sent_since"], wanted)}
    sending = {row["destination_id"]: int(row["bytes_per_s"]) for row in ledger.fetch_all(SQL["sending"])}
    found = {}
    for destination_id in finished.keys() | sent.keys() | sending.keys():
        jobs, work = finished.get(destination_id, {}), sent.get(destination_id, {})
        found[destination_id] = Throughput(
            succeeded=jobs.get("succeeded", 0),
            failed=jobs.get("failed", 0),
            instances=int(work.get("instances", 0)),
            size_bytes=int(work.get("bytes", 0)),
            bytes_per_s=sending.get(destination_id, 0),
        )
    return found


def finished_per_hour(ledger: Ledger, since: datetime) -> dict[tuple[datetime, JobStatus], int]:
    """Jobs that ended in each hour since a moment, by the status they have; hours without are absent."""
    rows = ledger.fetch_all(SQL["finished_per_hour"], {"since": since})
    return {(row["hour_at"], JobStatus(row["status"])): row["jobs"] for row in rows}


def made_per_hour(ledger: Ledger, since: datetime) -> dict[datetime, int]:
    """Jobs that were made in each hour since a moment; hours without are absent."""
    return {row["hour_at"]: row["jobs"] for row in ledger.fetch_all(SQL["made_per_hour"], {"since": since})}


_TYPES = [job_type.value for job_type in JobType]

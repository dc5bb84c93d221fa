"""What there is to filter by, and what somebody's words may name."""

from __future__ import annotations

from archsync.api.access import Right, guarded_router, needs
from archsync.api.models_jobs import (
    Choice,
    DestinationChoice,
    Filters,
    FoundOut,
    StatusChoice,
    StudyFound,
    Wanted,
)
from archsync.api.sites import LedgerDep, PlatformDep
from archsync.core.job import JobStatus, JobType
from archsync.core.job_wording import LABELS, STATUS_TONES
from archsync.errors import ArchsyncError
from archsync.ledger import destinations, job_pages
from archsync.services.search import search

router = guarded_router("jobs")


@router.get("/filters", dependencies=[needs(Right.READ)])
def read_filters(ledger: LedgerDep, platform: PlatformDep) -> Filters:
    """What there is to filter jobs by. While the platform is away, facilities are those that jobs are of."""
    try:
        facilities = [Choice(value=f.facility_id, label=f.name or f.facility_id) for f in platform.fetch_facilities()]
    except ArchsyncError:
        facilities = [Choice(value=key, label=key) for key in job_pages.facilities(ledger)]
    return Filters(
        types=[Choice(value=t.value, label=LABELS[t]) for t in JobType],
        statuses=[StatusChoice(value=s.value, label=s.value.capitalize(), tone=STATUS_TONES[s]) for s in JobStatus],
        destinations=[
            DestinationChoice(name=d.name, label=d.name, enabled=d.enabled)
            for d in sorted(destinations.all_destinations(ledger), key=lambda d: d.name)
        ],
        gateways=[Choice(value=g.name, label=g.name) for g in destinations.gateways(ledger)],
        facilities=sorted(facilities, key=lambda f: f.label),
    )


@router.post("/search", dependencies=[needs(Right.READ)])
def find(ledger: LedgerDep, platform: PlatformDep, wanted: Wanted) -> FoundOut:
    """Find jobs and studies by a job's number, a Study Instance UID or an accession number; changes nothing."""
    found = search(ledger, platform, wanted.text)
    return FoundOut(
        jobs=list(found.jobs),
        studies=[
            StudyFound(
                study_instance_uid=s.study_instance_uid,
                label=f"Study {s.study_instance_uid}" + (" (by its accession number)" if s.is_by_accession else ""),
            )
            for s in found.studies
        ],
        is_complete=found.is_complete,
    )

"""Asking that an archive be told of a patient explicitly: "see that this patient is right there now"."""

from __future__ import annotations

from datetime import datetime

from archsync.core.identity import differences
from archsync.core.job import JobStatus, KnownJob
from archsync.core.planning import plan
from archsync.ledger import destinations, jobs, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.adt import not_configured
from archsync.services.comparison import Compared, compare_one
from archsync.services.planner import PlannedStudy, write_adt
from archsync.services.request import find_study


def request_adt(
    platform: Platform,
    ledger: Ledger,
    *,
    destination: str,
    study_instance_uid: str,
    requested_by: str,
    now: datetime,
) -> int | None:
    """Find or make the next job that tells a destination of a study's patient, due now; None when it knows all.

    Several differences are several jobs, in the order they must go: ask again when one is done. A failed job starts
    afresh, one that was cancelled too.

    Raises:
        InvalidInput: the platform has no such study, or several.
        ConfigurationError: there is no such destination, or it takes no ADT messages.
    """
    target = destinations.get(ledger, destination)
    if target.adt is None:
        raise not_configured(destination)
    study_key = find_study(platform, study_instance_uid)
    with ledger.transaction():
        compared = compare_one(platform, ledger, study_key, target)
        if compared is None:
            return None
        outcome = plan(compared.desired, compared.held, target, observed_at=now)
        write_adt(ledger, [PlannedStudy(compared.desired, compared.held, target, outcome)], now=now)
        found = _next_job(ledger, compared)
        if found is None:
            return None
        if found.status is JobStatus.FAILED or found.status.is_done:
            jobs.move(ledger, found.job_id, JobStatus.WAITING, not_before=now, reset_attempts=True)
        jobs.request_now(ledger, found.job_id, requested_by=requested_by)
        return found.job_id


def _next_job(ledger: Ledger, compared: Compared) -> KnownJob | None:
    """The first open job about the patient, or else the one cancelled last, if something is still to be said."""
    destination_id, patient = compared.destination.destination_id, compared.desired.study.patient
    assert destination_id is not None, "read from the ledger"
    known = planned_jobs.known_patient_jobs(ledger, [destination_id], [patient.patient_key]).get(destination_id, [])
    undone = [job for job in known if not job.status.is_done]
    if undone:
        return undone[0]
    still_to_say = {change for change, _ in differences(patient, compared.held.patients, compared.desired.survivors)}
    given_up = [job for job in known if job.status is JobStatus.CANCELLED and job.adt_change in still_to_say]
    return given_up[-1] if given_up else None

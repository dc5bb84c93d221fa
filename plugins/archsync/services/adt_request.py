"""Asking that an archive be told of a patient explicitly: "see that this patient is right there now"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from archsync.core.destination import Destination
from archsync.core.identity import differences
from archsync.core.job import JobStatus, KnownJob
from archsync.core.planning import plan
from archsync.errors import InvalidInput
from archsync.ledger import destinations, jobs, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.adt import not_configured
from archsync.services.comparison import Compared, compare
from archsync.services.planner import PlannedStudy, write_adt


def request_adt(
    platform: Platform,
    ledger: Ledger,
    *,
    destination: str,
    study_instance_uid: str | None = None,
    patient_id: str | None = None,
    issuer_of_patient_id: str | None = None,
    requested_by: str,
    now: datetime,
) -> int | None:
    """Find or make the next job that tells a destination of a patient, due now; None when it knows all.

    The patient is a study's, or named by the identifier that the platform has now. Several differences are several
    jobs, in the order they must go: ask again when one is done. A failed job starts afresh, one that was cancelled too.

    Raises:
        InvalidInput: neither or both are named, or the platform has no such study or patient.
        ConfigurationError: there is no such destination, or it takes no ADT messages.
    """
    target = destinations.get(ledger, destination)
    if target.adt is None:
        raise not_configured(destination)
    study_keys = _study_keys(platform, study_instance_uid, patient_id, issuer_of_patient_id)
    with ledger.transaction():
        compared = _compare(platform, ledger, study_keys, target)
        planned = [
            PlannedStudy(c.desired, c.held, c.destination, plan(c.desired, c.held, c.destination, observed_at=now))
            for c in compared
        ]
        write_adt(ledger, planned, now=now)
        found = _next_job(ledger, target, compared)
        if found is None:
            return None
        if found.status is JobStatus.FAILED or found.status.is_done:
            jobs.move(ledger, found.job_id, JobStatus.WAITING, not_before=now, reset_attempts=True)
        jobs.request_now(ledger, found.job_id, requested_by=requested_by)
        return found.job_id


def _study_keys(
    platform: Platform, study_instance_uid: str | None, patient_id: str | None, issuer: str | None
) -> tuple[str, ...]:
    if (study_instance_uid is None) == (patient_id is None):
        raise InvalidInput("name either a study (study_instance_uid) or a patient (patient_id)")
    if patient_id is not None:
        return platform.find_studies_of(patient_id, issuer)
    study_keys = platform.find_study_keys(study_instance_uid=study_instance_uid)
    if len(study_keys) != 1:
        what = "no study" if not study_keys else f"{len(study_keys)} studies"
        raise InvalidInput(
            f"the platform has {what} with Study Instance UID {study_instance_uid}", code="unknown-study"
        )
    return study_keys


def _compare(platform: Platform, ledger: Ledger, study_keys: Sequence[str], target: Destination) -> Sequence[Compared]:
    found = compare(platform, ledger, study_keys, [target])
    for error in found.rejected.values():
        raise error
    return found.compared


def _next_job(ledger: Ledger, target: Destination, compared: Sequence[Compared]) -> KnownJob | None:
    """The first open job about these patients, or else the one cancelled last, if something is still to be said."""
    assert target.destination_id is not None, "read from the ledger"
    keys = {c.desired.study.patient.patient_key for c in compared}
    known = planned_jobs.known_patient_jobs(ledger, [target.destination_id], keys).get(target.destination_id, [])
    undone = [job for job in known if not job.status.is_done]
    if undone:
        return undone[0]
    still_to_say = {
        change
        for c in compared
        for change, _ in differences(c.desired.study.patient, c.held.patients, c.desired.survivors)
    }
    given_up = [job for job in known if job.status is JobStatus.CANCELLED and job.adt_change in still_to_say]
    return given_up[-1] if given_up else None

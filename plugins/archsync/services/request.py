"""Asking for a study at a destination explicitly, whatever its trigger says: "archive this study there now"."""

from __future__ import annotations

from datetime import datetime

from archsync.core.job import JobStatus, JobType
from archsync.core.planning import Work, missing_instances, unverified_instances
from archsync.errors import InvalidInput
from archsync.ledger import destinations, jobs, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.comparison import compare_one


def find_study(platform: Platform, study_instance_uid: str) -> str:
    """Find the key of the one study with a UID.

    Raises:
        InvalidInput: the platform has no such study, or several.
    """
    study_keys = platform.find_study_keys(study_instance_uid=study_instance_uid)
    if len(study_keys) != 1:
        what = "no study" if not study_keys else f"{len(study_keys)} studies"
        raise InvalidInput(
            f"the platform has {what} with Study Instance UID {study_instance_uid}", code="unknown-study"
        )
    return study_keys[0]


def request_study(
    platform: Platform, ledger: Ledger, *, destination: str, study_instance_uid: str, requested_by: str, now: datetime
) -> int | None:
    """Find or make the job that brings a study to a destination, due now; None when all of it is there already.

    A job that is open on this study there is taken, not doubled: asking twice asks once. A failed one starts afresh.

    Raises:
        InvalidInput: the platform has no such study, several, or one without instances.
        ConfigurationError: there is no such destination.
    """
    target = destinations.get(ledger, destination)
    assert target.destination_id is not None, "read from the ledger"
    study_key = find_study(platform, study_instance_uid)
    with ledger.transaction():
        compared = compare_one(platform, ledger, study_key, target)
        if compared is None or not compared.desired.instances:
            raise InvalidInput(
                f"the platform has no instances of study {study_instance_uid}", code="study-without-instances"
            )
        desired, held, study = compared.desired, compared.held, compared.desired.study
        undone = [job for job in held.store_jobs if not job.status.is_done]
        missing = missing_instances(desired, held, target)
        if not undone and not missing and not unverified_instances(desired, held, target):
            return None
        if undone:
            last = undone[-1]
            if last.status is JobStatus.FAILED:
                jobs.move(ledger, last.job_id, JobStatus.WAITING, not_before=now, reset_attempts=True)
            jobs.request_now(ledger, last.job_id, requested_by=requested_by)
            return last.job_id
        work = Work(study.priority, study.content_digest(), missing, now, None)
        job_type = JobType.DICOM if held.is_archived else JobType.ARCHIVE
        made = planned_jobs.insert_store(
            ledger, job_type, target.destination_id, study, work, requested_by=requested_by
        )
        if made is not None:
            return made
    # A planner was quicker by a moment: its job is the one to ask for.
    return request_study(
        platform,
        ledger,
        destination=destination,
        study_instance_uid=study_instance_uid,
        requested_by=requested_by,
        now=now,
    )

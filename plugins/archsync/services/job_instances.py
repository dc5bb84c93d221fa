"""The instances that a job is about, each with what became of it at its destination."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from archsync.core.job import Job, JobType
from archsync.errors import PlatformUnavailable
from archsync.ledger import destinations, holdings, jobs, rejection_notes
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.comparison import compare_one

#: A job names at most this many instances that it could not send.
_FAILURES = 100_000


class InstanceStatus(StrEnum):
    """What became of an instance at a destination."""

    STORED = "stored"
    """The archive acknowledged it."""
    REJECTED = "rejected"
    """A rejection note that the archive took withdrew it."""
    FAILED = "failed"
    """The job's latest attempt could not send it."""
    WAITING = "waiting"
    """It is still to be sent, or to be withdrawn."""


@dataclass(frozen=True, slots=True)
class InstanceState:
    """One instance, under the UIDs by which the archive knows it, or will."""

    sop_instance_uid: str
    series_instance_uid: str | None
    status: InstanceStatus
    stored_at: datetime | None = None
    store_status: int | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class JobInstances:
    """A job's instances by SOP Instance UID. Not ``is_complete``: the platform did not say what is still to be sent."""

    states: tuple[InstanceState, ...]
    is_complete: bool = True


def instances_of(ledger: Ledger, platform: Platform, job: Job) -> JobInstances:
    """Look at a job's instances: of a study that is stored all of it, of a change or note what is withdrawn."""
    if job.study_instance_uid is None or job.study_key is None:
        return JobInstances(())
    held = holdings.instances_of_study(ledger, job.destination_id, job.study_instance_uid)
    states: dict[str, InstanceState] = {}
    if job.job_type in (JobType.IOCM, JobType.KOS):
        job_ids = [job.job_id, *jobs.related(ledger, job).steps]
        notes = {note.sop_instance_uid for note in rejection_notes.records(ledger, job_ids)}
        for item in held:
            if item.rejected_by in notes:
                states[item.sop_instance_uid] = _state(item)
        return JobInstances(_sorted(states))
    for item in held:
        states[item.sop_instance_uid] = _state(item)
    is_complete = _add_unsent(ledger, platform, job, states)
    for failure in jobs.failures(ledger, job.job_id, limit=_FAILURES):
        uid = failure.sop_instance_uid
        known = states.get(uid)
        if known is None or known.status is InstanceStatus.WAITING:
            states[uid] = InstanceState(
                uid,
                known.series_instance_uid if known else None,
                InstanceStatus.FAILED,
                store_status=failure.store_status,
                code=failure.code,
                message=failure.message,
            )
    return JobInstances(_sorted(states), is_complete)


def _add_unsent(ledger: Ledger, platform: Platform, job: Job, states: dict[str, InstanceState]) -> bool:
    """Add what the platform has and the archive lacks; False: the platform does not answer."""
    assert job.study_key is not None, "asked for jobs on a study"
    try:
        compared = compare_one(platform, ledger, job.study_key, destinations.get_by_id(ledger, job.destination_id))
    except PlatformUnavailable:
        return False
    if compared is None:
        return True
    for instance in compared.desired.instances:
        placed = compared.desired.latest.get(instance.instance_key)
        uid = placed.uids.sop_instance_uid if placed else instance.sop_instance_uid
        series = placed.uids.series_instance_uid if placed else instance.series_instance_uid
        states.setdefault(uid, InstanceState(uid, series, InstanceStatus.WAITING))
    return True


def _state(item: holdings.HeldInstanceDetail) -> InstanceState:
    status = InstanceStatus.STORED
    if item.rejected_by is not None:
        status = InstanceStatus.REJECTED if item.rejected_at else InstanceStatus.WAITING
    return InstanceState(
        item.sop_instance_uid,
        item.series_instance_uid,
        status,
        stored_at=item.stored_at,
        store_status=item.store_status,
    )


def _sorted(states: dict[str, InstanceState]) -> tuple[InstanceState, ...]:
    return tuple(states[uid] for uid in sorted(states))

"""What an administrator may do to a job (retry, cancel, move to the front), and what Airflow's own buttons mean."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from archsync.core.audit import AuditAction
from archsync.core.job import Job, JobStatus, JobType, WaitReason
from archsync.errors import InvalidInput
from archsync.ledger import audit, jobs, planned_jobs
from archsync.ledger.database import Ledger
from archsync.services.taking import look_again


def retry(ledger: Ledger, job_id: int, *, actor: str, now: datetime) -> Job:
    """Have a job that is not under way start afresh, its attempts counted from zero; of a change, its steps.

    Raises:
        InvalidInput: the job succeeded, it runs or is queued already, a rule keeps it back, or a later job has taken
            its work over.
    """
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        if _is_record_of_rule(ledger, job):
            raise InvalidInput(
                f"job {job_id} is suppressed: {job.reason}",
                code="not-retryable",
                next_step="Change the destination's setting that keeps it back; it is planned again by itself.",
            )
        if job.status in (JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.SUCCEEDED):
            raise InvalidInput(
                f"job {job_id} is {job.status.value}; only failed, retrying, cancelled or suppressed jobs are retried",
                code="not-retryable",
                next_step="Nothing to do.",
            )
        if job.status.is_done and (heir := _heir(ledger, job)) is not None:
            raise InvalidInput(
                f"job {job_id} is {job.status.value}, and job {heir} has taken its work over",
                code="not-retryable",
                next_step=f"Retry job {heir} if it failed; it sends all that is missing of the study.",
            )
        for step in _steps_to_retry(ledger, job):
            jobs.move(
                ledger,
                step.job_id,
                JobStatus.WAITING,
                wait_reason=WaitReason.QUEUE,
                not_before=now,
                reason_code=step.reason_code,
                reason=step.reason,
                reset_attempts=True,
                decided_by=actor,
            )
        audit.record(ledger, actor=actor, action=AuditAction.JOB_RETRY, subject=f"job {job_id}")
    return jobs.get(ledger, job_id)


def _steps_to_retry(ledger: Ledger, job: Job) -> list[Job]:
    """The job itself; of a change, its failed steps, or if none failed those that retry or were cancelled."""
    if job.job_type is not JobType.IOCM:
        return [job]
    steps = jobs.steps(ledger, job.job_id)
    failed = [step for step in steps if step.status is JobStatus.FAILED]
    again = (JobStatus.RETRYING, JobStatus.CANCELLED, JobStatus.SUPPRESSED)
    return failed or [step for step in steps if step.status in again]


def _is_record_of_rule(ledger: Ledger, job: Job) -> bool:
    """Tell whether a job only records that a setting keeps something back; there is nothing in it to run."""
    if job.status is not JobStatus.SUPPRESSED:
        return False
    return job.job_type is JobType.ADT or (job.job_type is JobType.IOCM and not jobs.steps(ledger, job.job_id))


def _heir(ledger: Ledger, job: Job) -> int | None:
    """The open job on the same study and destination, if there is one."""
    if job.study_key is None:
        return None
    known = planned_jobs.known_jobs(ledger, [job.destination_id], [job.study_key])
    same_kind = {JobType.KOS} if job.job_type is JobType.KOS else {JobType.ARCHIVE, JobType.DICOM}
    return next(
        (
            other.job_id
            for other in known.get((job.destination_id, job.study_key), [])
            if other.job_type in same_kind and not other.status.is_done
        ),
        None,
    )


def cancel(ledger: Ledger, job_id: int, *, actor: str, reason: str) -> Job:
    """End a job that is not done; a running attempt stops at its next instance.

    Of a change, the rejection notes are cancelled; what it has to store belongs to the archive and goes on.

    Raises:
        InvalidInput: the job is done already.
    """
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        if job.status.is_done:
            raise InvalidInput(
                f"job {job_id} is {job.status.value} already", code="not-cancellable", next_step="Nothing to do."
            )
        is_change = job.job_type is JobType.IOCM
        steps = [s for s in jobs.steps(ledger, job_id) if s.job_type is JobType.KOS] if is_change else [job]
        for step in steps:
            jobs.move(
                ledger,
                step.job_id,
                JobStatus.CANCELLED,
                reason_code="cancelled",
                reason=f"Cancelled: {reason}",
                decided_by=actor,
            )
        audit.record(ledger, actor=actor, action=AuditAction.JOB_CANCEL, subject=f"job {job_id}", detail=reason)
    return jobs.get(ledger, job_id)


def move_to_front(ledger: Ledger, job_id: int, *, actor: str, together: Collection[int] = ()) -> Job:
    """Have a waiting job go before all others of its destination, those included that were moved there before.

    Not before those ``together`` with which it is moved: they keep their order. The job that holds it back in its lane
    goes with it, as far as that waits too; of a change, its steps go. A settling job is due at once. One that is in
    front already stays as it is.

    Raises:
        InvalidInput: the job does not wait.
    """
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        steps = jobs.steps(ledger, job_id) if job.job_type is JobType.IOCM else [job]
        waiting = [step.job_id for step in steps if step.status is JobStatus.WAITING]
        if not waiting:
            raise InvalidInput(
                f"job {job_id} is {job.status.value}; only waiting jobs are moved to the front",
                code="not-movable",
                next_step="Retry it first if it failed; else there is nothing to do.",
            )
        ahead = _with_blockers(ledger, waiting)
        moved = jobs.move_to_front(ledger, job.destination_id, ahead, together=together)
        if moved:
            others = [other for other in sorted(moved) if other != job_id]
            detail = f"with job {', '.join(map(str, others))}" if others else ""
            audit.record(ledger, actor=actor, action=AuditAction.JOB_FRONT, subject=f"job {job_id}", detail=detail)
    return jobs.get(ledger, job_id)


def _with_blockers(ledger: Ledger, job_ids: Collection[int]) -> set[int]:
    """Waiting jobs and the waiting ones that hold them back, one behind the other."""
    found: set[int] = set()
    for job_id in job_ids:
        ahead: int | None = job_id
        while ahead is not None and ahead not in found and jobs.get(ledger, ahead).status is JobStatus.WAITING:
            found.add(ahead)
            ahead = jobs.blocker(ledger, ahead)
    return found


def record_killed(ledger: Ledger, job_id: int, *, will_retry: bool, try_number: int) -> None:
    """The process of a job's task ended without a word (``kill -9``, out of memory, a lost machine)."""
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        if job.status is not JobStatus.RUNNING or (job.try_number or 0) > try_number:
            return
        if job.attempt_id is not None:
            jobs.finish_attempt(
                ledger,
                job.attempt_id,
                outcome=JobStatus.RETRYING if will_retry else JobStatus.FAILED,
                reason_code="task-killed",
                reason=_KILLED,
            )
        jobs.move(
            ledger,
            job_id,
            JobStatus.RETRYING if will_retry else JobStatus.FAILED,
            reason_code="task-killed",
            reason=_KILLED,
        )
    if not will_retry:
        look_again(ledger, job)


_KILLED = "The task's process was killed; what it had stored is kept, the rest is sent again."


def record_marked(ledger: Ledger, job_id: int, *, as_success: bool, actor: str) -> None:
    """Somebody marked the task in Airflow: failed fails the job; success ends it, claiming nothing of the archive."""
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        if job.status.is_done:
            return
        if as_success:
            jobs.move(
                ledger,
                job_id,
                JobStatus.CANCELLED,
                reason_code="marked-success",
                reason="Marked as success in Airflow; what was missing was not sent.",
                decided_by=actor,
            )
        else:
            jobs.move(
                ledger,
                job_id,
                JobStatus.FAILED,
                reason_code="marked-failed",
                reason="Marked as failed in Airflow.",
                decided_by=actor,
            )
        action = AuditAction.JOB_MARKED_SUCCESS if as_success else AuditAction.JOB_MARKED_FAILED
        audit.record(ledger, actor=actor, action=action, subject=f"job {job_id}")
    if not as_success:
        look_again(ledger, job)

"""Whether a run may have a job now: taking it for an attempt, or saying why not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime

from archsync.core.destination import Destination
from archsync.core.job import Job, JobStatus, JobType, WaitReason
from archsync.core.naming import DagKind, dag_kind
from archsync.core.waiting import next_opening
from archsync.errors import InvalidInput
from archsync.ledger import destinations, dispatching, jobs, plan_queue
from archsync.ledger.database import Ledger
from archsync.services import breaker


@dataclass(frozen=True, slots=True)
class Run:
    """What Airflow runs: which DAG run, which try."""

    dag_id: str
    run_id: str
    try_number: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. ``WAITING``: the job is back in the queue; ``retry_delay_s`` is set for ``RETRYING``."""

    job_id: int
    status: JobStatus
    message: str
    code: str = ""
    retry_delay_s: float | None = None
    did_run: bool = True


@dataclass(frozen=True, slots=True)
class Taken:
    """A job in hand. ``is_probe``: its destination was down, and the attempt finds out whether it still is."""

    job: Job
    destination: Destination
    attempt_id: int
    is_probe: bool


def take(ledger: Ledger, job_id: int, run: Run, job_types: Collection[JobType], now: datetime) -> Ended | Taken:
    """Take a job of one of ``job_types`` for this attempt, or say why not. One transaction, under the job's lock."""
    with ledger.transaction():
        job = jobs.get(ledger, job_id, lock=True)
        _check_type(job, job_types)
        if job.status.is_done:
            return Ended(job_id, job.status, f"job {job_id} is {job.status.value} already", did_run=False)
        if _is_anothers(job, run, now):
            return Ended(job_id, job.status, f"job {job_id} is being worked on by run {job.run_id}", did_run=False)
        destination = destinations.get_by_id(ledger, job.destination_id)
        if job.status in _RETRIED_BY_AIRFLOW and jobs.count_killed(ledger, job_id) >= destination.max_attempts:
            return _give_up_killed(ledger, job)
        if blocked_by := jobs.blocker(ledger, job_id):
            return _put_back(ledger, job, WaitReason.LANE, f"job {blocked_by} has to finish first")
        if not destination.enabled:
            return _put_back(ledger, job, WaitReason.DISABLED, f"destination {destination.name} is disabled")
        kind = dag_kind(job.job_type)
        if next_opening(destination, kind, now) > now:
            return _put_back(ledger, job, WaitReason.SEND_WINDOW, f"outside the send window {destination.send_window}")
        if urgent := dispatching.more_urgent(ledger, job):
            return _put_back(ledger, job, WaitReason.QUEUE, f"job {urgent} is more urgent")
        probe = breaker.take_probe(ledger, destination, kind, now)
        if probe is False:
            return _put_back(ledger, job, WaitReason.DESTINATION_DOWN, f"destination {destination.name} is down")
        attempt_id = jobs.begin_attempt(
            ledger,
            job_id,
            dag_id=run.dag_id,
            run_id=run.run_id,
            try_number=run.try_number,
            peer=_name_peer(destination, kind),
        )
    if job.status is JobStatus.FAILED:  # cleared in Airflow: it starts afresh
        job = replace(job, attempts=0, first_attempt_at=None)
    return Taken(job, destination, attempt_id, is_probe=probe is True)


def _name_peer(destination: Destination, kind: DagKind) -> str:
    """Whom an attempt talks to."""
    if kind is DagKind.ADT:
        return f"{destination.adt_receiving_application} at {destination.adt_host}:{destination.adt_port}"
    return f"{destination.called_ae_title} at {destination.host}:{destination.port}"


def _check_type(job: Job, job_types: Collection[JobType]) -> None:
    """Refuse to run a job as one of another kind."""
    if job.job_type not in job_types:
        wanted = " or ".join(sorted(t.value for t in job_types))
        raise InvalidInput(f"job {job.job_id} is of type {job.job_type.value}, not {wanted}", code="wrong-job-type")


def _is_anothers(job: Job, run: Run, now: datetime) -> bool:
    """Tell whether another run works on the job and is alive. A later try of the same run means Airflow gave it up."""
    if job.status is not JobStatus.RUNNING or job.lease_until is None or job.lease_until <= now:
        return False
    same_run = (job.dag_id, job.run_id) == (run.dag_id, run.run_id)
    return not same_run


_RETRIED_BY_AIRFLOW = frozenset({JobStatus.RUNNING, JobStatus.RETRYING})


def _give_up_killed(ledger: Ledger, job: Job) -> Ended:
    """Fail a job whose process is killed every time: an image that crashes it must not do so for ever."""
    message = "Its process was killed in every attempt (out of memory, or an image that crashes it)."
    jobs.close_lost_attempts(ledger, job.job_id)
    jobs.move(ledger, job.job_id, JobStatus.FAILED, reason_code="task-killed", reason=message)
    look_again(ledger, job)
    return Ended(job.job_id, JobStatus.FAILED, message, code="task-killed")


def look_again(ledger: Ledger, job: Job) -> None:
    """Have the job's study planned again: what changed since the job looked was covered by it, and is no longer.

    Of an adt job it is every study that was filed under its patients.
    """
    if job.study_key is not None:
        plan_queue.queue(ledger, [job.study_key])
    else:
        plan_queue.queue_patients(ledger, [key for key in (job.patient_key, job.prior_patient_key) if key is not None])


def _put_back(ledger: Ledger, job: Job, why: WaitReason, message: str) -> Ended:
    jobs.move(ledger, job.job_id, JobStatus.WAITING, wait_reason=why, reason_code=job.reason_code, reason=job.reason)
    return Ended(job.job_id, JobStatus.WAITING, message, code=why.value, did_run=False)

"""Jobs in the ledger: SQL in, :class:`~archsync.core.job.Job` out. Status changes obey ``core.job.TRANSITIONS``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

from archsync.core.job import TRANSITIONS, AdtChange, Job, JobStatus, JobType, WaitReason
from archsync.core.study import Priority
from archsync.core.transfer import StoreOutcome
from archsync.errors import InvalidInput
from archsync.ledger import job_pages
from archsync.ledger.database import Ledger, Row
from archsync.ledger.job_pages import JobFilter as JobFilter
from archsync.ledger.queries import load

SQL = load("jobs")

#: An attempt that does not renew its lease for this long counts as dead, in seconds.
LEASE_S = 60


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A job with the one that holds it back, if any, and the gateway that its destination is behind."""

    job: Job
    blocked_by: int | None
    gateway: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a job, as Airflow ran it."""

    attempt_id: int
    job_id: int
    dag_id: str
    run_id: str
    try_number: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    reason_code: str | None
    reason: str | None
    counted: bool
    instances_done: int
    bytes_done: int
    peer: str | None
    """Whom it talked to, or was to: AE title and address, or HL7 application and address."""
    status_code: str | None
    """What the peer last answered: a DIMSE status in hexadecimal, or an HL7 acknowledgement code."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The other running jobs that store at the same destination, and their associations, open or about to be opened.

    ``is_on_hold``: an administrator holds the job's own study back.
    """

    jobs: int
    associations: int
    is_on_hold: bool = False


@dataclass(frozen=True, slots=True)
class RelatedJobs:
    """The numbers of jobs around one: its steps, what it was told to wait for (done or not), and what it holds back."""

    steps: tuple[int, ...]
    dependencies: tuple[int, ...]
    blocked: tuple[int, ...]
    """The first 50."""


@dataclass(frozen=True, slots=True)
class InstanceFailure:
    """An instance that a job could not send, and why."""

    sop_instance_uid: str
    store_status: int | None
    code: str
    message: str


_JOB_COLUMNS = [f.name for f in fields(Job)]


def from_row(row: Row) -> Job:
    """A row of ``job`` with its destination's name, as a job."""
    values = {name: row[name] for name in _JOB_COLUMNS}
    values["job_type"] = JobType(row["job_type"])
    values["status"] = JobStatus(row["status"])
    values["priority"] = Priority(row["priority"])
    values["wait_reason"] = WaitReason(row["wait_reason"]) if row["wait_reason"] else None
    values["adt_change"] = AdtChange(row["adt_change"]) if row["adt_change"] else None
    return Job(**values)


def get(ledger: Ledger, job_id: int, *, lock: bool = False) -> Job:
    """Read one job, locked until the transaction ends if asked.

    Raises:
        InvalidInput: there is no such job.
    """
    row = ledger.fetch_one(SQL["lock" if lock else "get"], {"job_id": job_id})
    if row is None:
        raise InvalidInput(
            f"there is no job {job_id}", code="unknown-job", next_step="`archsync jobs list` shows the jobs."
        )
    return from_row(row)


def request_now(ledger: Ledger, job_id: int, *, requested_by: str) -> None:
    """Make a queued job due at once, whatever the settle delay and the trigger status say."""
    ledger.execute(SQL["request_now"], {"job_id": job_id, "requested_by": requested_by})


def move_to_front(
    ledger: Ledger, destination_id: int, job_ids: Collection[int], *, together: Collection[int] = ()
) -> list[int]:
    """Move waiting jobs ahead of all of their destination but those ``together`` with which they are moved.

    Gives those that were not ahead already.
    """
    wanted = {"destination_id": destination_id, "job_ids": list(job_ids), "together": list(together)}
    return [row["job_id"] for row in ledger.fetch_all(SQL["move_to_front"], wanted)]


def by_run(ledger: Ledger, *, dag_id: str, run_id: str) -> int | None:
    """The job that a DAG run works on."""
    row = ledger.fetch_one(SQL["by_run"], {"dag_id": dag_id, "run_id": run_id})
    return row["job_id"] if row else None


def blocker(ledger: Ledger, job_id: int) -> int | None:
    """The earlier undone job that holds this one back in its lane."""
    row = ledger.fetch_one(SQL["blocker"], {"job_id": job_id})
    return row["job_id"] if row else None


def count_killed(ledger: Ledger, job_id: int) -> int:
    """How many attempts of a job ended without a word since it last waited."""
    row = ledger.fetch_one(SQL["count_killed"], {"job_id": job_id})
    return int(row["killed"]) if row else 0


def begin_attempt(
    ledger: Ledger, job_id: int, *, dag_id: str, run_id: str, try_number: int, peer: str | None = None
) -> int:
    """Make the job run under a new attempt with a fresh lease; attempts that never ended are closed as lost."""
    close_lost_attempts(ledger, job_id)
    ledger.execute(SQL["clear_failures"], {"job_id": job_id})
    run = {"job_id": job_id, "dag_id": dag_id, "run_id": run_id, "try_number": try_number}
    row = ledger.fetch_one(SQL["insert_attempt"], {**run, "peer": peer})
    assert row is not None, "insert … returning gives a row"
    ledger.execute(SQL["set_running"], {**run, "attempt_id": row["attempt_id"], "lease_s": LEASE_S})
    return int(row["attempt_id"])


def close_lost_attempts(ledger: Ledger, job_id: int) -> None:
    """Close the attempts of a job that never reported an end."""
    ledger.execute(SQL["close_lost_attempts"], {"job_id": job_id})


def report(
    ledger: Ledger,
    job_id: int,
    attempt_id: int,
    *,
    instances: int = 0,
    size_bytes: int = 0,
    failed: int = 0,
    bytes_per_s: int = 0,
    associations: int = 0,
) -> Neighbours | None:
    """Renew the lease, count what came of instances since the last report, and say how the attempt sends just now.

    Gives who else stores there, and whether to stop; None when another attempt took over, or an operator ended the job.
    """
    row = ledger.fetch_one(
        SQL["report"],
        {
            "job_id": job_id,
            "attempt_id": attempt_id,
            "instances": instances,
            "bytes": size_bytes,
            "failed": failed,
            "bytes_per_s": bytes_per_s,
            "associations": associations,
            "lease_s": LEASE_S,
        },
    )
    return None if row is None else Neighbours(row["other_jobs"], row["other_associations"], row["is_on_hold"])


def set_scope(
    ledger: Ledger, job_id: int, attempt_id: int, *, content_digest: str, totals: tuple[int, int], done: tuple[int, int]
) -> None:
    """Record what the attempt found: (instances, bytes) in all, and (instances, bytes) that are there already."""
    ledger.execute(
        SQL["set_scope"],
        {
            "job_id": job_id,
            "attempt_id": attempt_id,
            "content_digest": content_digest,
            "instances_total": totals[0],
            "bytes_total": totals[1],
            "instances_done": done[0],
            "bytes_done": done[1],
        },
    )


def record_failures(ledger: Ledger, job_id: int, outcomes: Iterable[StoreOutcome]) -> None:
    """Name the instances that could not be sent."""
    ledger.execute_many(
        SQL["record_failure"],
        [
            {
                "job_id": job_id,
                "instance_key": outcome.instance.instance_key,
                "sop_instance_uid": outcome.instance.sop_instance_uid,
                "store_status": outcome.status,
                "code": outcome.code,
                "message": outcome.message,
            }
            for outcome in outcomes
        ],
    )


def finish_attempt(
    ledger: Ledger,
    attempt_id: int,
    *,
    outcome: JobStatus,
    reason_code: str | None = None,
    reason: str | None = None,
    counted: bool = False,
    instances: int = 0,
    size_bytes: int = 0,
    status_code: str | None = None,
) -> None:
    """Record how an attempt ended, and the peer's last answer (see :class:`Attempt`)."""
    ledger.execute(
        SQL["finish_attempt"],
        {
            "attempt_id": attempt_id,
            "outcome": outcome.value,
            "reason_code": reason_code,
            "reason": reason,
            "counted": counted,
            "instances": instances,
            "bytes": size_bytes,
            "status_code": status_code,
        },
    )


def move(
    ledger: Ledger,
    job_id: int,
    status: JobStatus,
    *,
    attempt_id: int | None = None,
    reason_code: str | None = None,
    reason: str | None = None,
    wait_reason: WaitReason | None = None,
    not_before: datetime | None = None,
    next_attempt_at: datetime | None = None,
    counted: bool = False,
    reset_attempts: bool = False,
    decided_by: str | None = None,
) -> bool:
    """Change a job's status where the transitions allow it; False when they don't, or ``attempt_id`` is stale.

    A job that goes back to waiting absorbs the follow-up that was queued behind it.
    """
    allowed = [s.value for s in JobStatus if status in TRANSITIONS[s]]
    with ledger.transaction():
        if status is JobStatus.WAITING:
            ledger.execute(SQL["merge_later"], {"job_id": job_id, "allowed": allowed, "attempt_id": attempt_id})
        moved = ledger.execute(
            SQL["move"],
            {
                "job_id": job_id,
                "status": status.value,
                "allowed": allowed,
                "attempt_id": attempt_id,
                "reason_code": reason_code,
                "reason": reason,
                "wait_reason": wait_reason.value if wait_reason else None,
                "not_before": not_before,
                "next_attempt_at": next_attempt_at,
                "counted": int(counted),
                "reset_attempts": reset_attempts,
                "decided_by": decided_by,
            },
        )
    return moved == 1


def failed_with(ledger: Ledger, destination_id: int, reason_codes: Collection[str]) -> list[int]:
    """The failed jobs at a destination with one of some reasons, oldest first."""
    wanted = {"destination_id": destination_id, "reason_codes": list(reason_codes)}
    return [row["job_id"] for row in ledger.fetch_all(SQL["failed_with"], wanted)]


def steps(ledger: Ledger, job_id: int) -> list[Job]:
    """The steps of an iocm job, in their order; none for other jobs."""
    return [from_row(row) for row in ledger.fetch_all(SQL["steps"], {"job_id": job_id})]


def related(ledger: Ledger, job: Job) -> RelatedJobs:
    """The jobs around one, in their order."""
    found: dict[str, list[int]] = {"step": [], "dependency": [], "blocked": []}
    for row in ledger.fetch_all(
        SQL["related"],
        {
            "job_id": job.job_id,
            "destination_id": job.destination_id,
            "study_key": job.study_key,
            "patient_keys": [key for key in (job.patient_key, job.prior_patient_key) if key is not None],
        },
    ):
        found[row["relation"]].append(row["job_id"])
    return RelatedJobs(tuple(found["step"]), tuple(found["dependency"]), tuple(found["blocked"]))


def listing(ledger: Ledger, wanted: JobFilter) -> list[ListedJob]:
    """Jobs that match, newest first, each with what blocks it."""
    return listed(ledger, job_pages.find(ledger, wanted))


def listed(ledger: Ledger, job_ids: Sequence[int]) -> list[ListedJob]:
    """Some jobs in the order given, each with what blocks it; numbers that no job has are left out."""
    rows = {row["job_id"]: row for row in ledger.fetch_all(SQL["listed"], {"job_ids": list(job_ids)})}
    return [ListedJob(from_row(rows[i]), rows[i]["blocked_by"], rows[i]["gateway"]) for i in job_ids if i in rows]


def attempts(ledger: Ledger, job_id: int) -> list[Attempt]:
    """A job's attempts, oldest first."""
    return [Attempt(**row) for row in ledger.fetch_all(SQL["attempts"], {"job_id": job_id})]


def failures(ledger: Ledger, job_id: int, *, limit: int = 100) -> list[InstanceFailure]:
    """The instances that a job could not send."""
    rows = ledger.fetch_all(SQL["failures"], {"job_id": job_id, "limit": limit})
    return [InstanceFailure(r["sop_instance_uid"], r["store_status"], r["code"], r["message"]) for r in rows]

"""Jobs: the unit of work an administrator sees, and the one table of its status changes.

    waiting ──► ready ──► running ──► succeeded
       ▲          │         │  ▲ ▲
       │          │         ▼  │ │ (Clear in Airflow)
       ├──────────┴──── retrying │
       └── destination down,   │ │
           hold, lane          ▼ │
                             failed ──► waiting (retry)

``cancelled`` (by whom, why) and ``suppressed`` (which rule) can be reached from every status that is not done.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from archsync.core.study import Priority

#: "Not before" this moment means: until planning says otherwise (the study is on hold, or its exam was reopened).
FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC)


class JobType(StrEnum):
    """What a job does, as administrators name it."""

    ARCHIVE = "archive"
    """First push of a study to a destination."""
    DICOM = "dicom"
    """Later C-STOREs of an archived study: late images, re-sends."""
    IOCM = "iocm"
    """One post-archive change as a whole; parent of its dicom and kos steps."""
    KOS = "kos"
    """Delivery of one rejection note."""
    ADT = "adt"
    """Delivery of one HL7 ADT message."""


class AdtChange(StrEnum):
    """What an ADT job tells the archive."""

    MERGE = "merge"
    """Another patient record gave way to this one (A40)."""
    IDENTIFIER = "identifier"
    """The patient has another identifier (A40, A47)."""
    DEMOGRAPHICS = "demographics"
    """Name, birth date or sex changed (A08, A31)."""


class JobStatus(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    READY = "ready"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPPRESSED = "suppressed"
    CANCELLED = "cancelled"

    @property
    def is_done(self) -> bool:
        """Done jobs block nothing and never run again by themselves. A failed job is not done."""
        return self in DONE


DONE = frozenset({JobStatus.SUCCEEDED, JobStatus.SUPPRESSED, JobStatus.CANCELLED})
UNDONE = frozenset(JobStatus) - DONE

_W, _R, _RUN, _RE = JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING
_OK, _F, _S, _C = JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.SUPPRESSED, JobStatus.CANCELLED

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    _W: frozenset({_R, _RUN, _S, _C}),
    # ready → failed: Airflow could not start the task, or an operator marked it failed before it began
    _R: frozenset({_W, _RUN, _F, _S, _C}),
    # running → running: a new attempt takes over from one that Airflow declared dead
    _RUN: frozenset({_W, _RUN, _RE, _OK, _F, _S, _C}),
    _RE: frozenset({_W, _RUN, _F, _S, _C}),
    # failed → running: Clear on the run in Airflow; failed → waiting: retry through archsync
    _F: frozenset({_W, _RUN, _S, _C}),
    # an administrator may take back a cancellation or suppression by retrying the job
    _S: frozenset({_W}),
    _C: frozenset({_W}),
    _OK: frozenset(),
}


def may_become(current: JobStatus, new: JobStatus) -> bool:
    """Tell whether a job may go from ``current`` to ``new``."""
    return new in TRANSITIONS[current]


class WaitReason(StrEnum):
    """Why a waiting job is not handed to Airflow."""

    SETTLING = "settling"
    """More images may still arrive."""
    EXAM_STATUS = "exam_status"
    """The exam went back below the trigger status, or was cancelled."""
    HOLD = "hold"
    """The study is on hold."""
    DISABLED = "disabled"
    """The destination is disabled."""
    SUSPENDED = "suspended"
    """The destination's DAG is paused in Airflow."""
    SEND_WINDOW = "send_window"
    """Outside the destination's send window."""
    DESTINATION_DOWN = "destination_down"
    """The destination does not answer; it is probed."""
    LANE = "lane"
    """An earlier job on the same study has to finish first."""
    IDENTIFIER = "identifier"
    """The archive knows another patient by its patient's identifier."""
    QUEUE = "queue"
    """Its turn has not come: the destination works on others."""


@dataclass(frozen=True, slots=True)
class KnownJob:
    """What planning has to know of an earlier job on the same study or patient at the same destination."""

    job_id: int
    job_type: JobType
    status: JobStatus
    content_digest: str | None
    priority: Priority
    wait_reason: WaitReason | None
    not_before: datetime
    created_at: datetime
    requested_by: str | None = None
    """Somebody asked for it explicitly: it is due at once, whatever trigger status, scope and settle delay say."""
    adt_change: AdtChange | None = None
    patient_key: str = ""
    prior_patient_key: str | None = None

    @property
    def is_requested(self) -> bool:
        """Tell whether somebody asked for it explicitly."""
        return self.requested_by is not None


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the ledger knows it. Counters are totals over all attempts."""

    job_id: int
    job_type: JobType
    destination_id: int
    destination: str
    status: JobStatus
    priority: Priority
    patient_key: str
    prior_patient_key: str | None
    study_key: str | None
    study_instance_uid: str | None
    parent_job_id: int | None
    adt_change: AdtChange | None
    facility_id: str | None
    content_digest: str | None
    wait_reason: WaitReason | None
    not_before: datetime
    reason_code: str | None
    reason: str | None
    instances_total: int
    instances_done: int
    instances_failed: int
    bytes_total: int
    bytes_done: int
    attempts: int
    created_at: datetime
    updated_at: datetime
    first_attempt_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    next_attempt_at: datetime | None
    dispatched_at: datetime | None
    dag_id: str | None
    run_id: str | None
    try_number: int | None
    attempt_id: int | None
    lease_until: datetime | None
    requested_by: str | None
    decided_by: str | None
    superseded_by: int | None
    associations: int = 0
    """Associations that the running attempt had at its last report."""
    bytes_per_s: int = 0
    """How fast the running attempt sent in the time before its last report."""
    front: int = 0
    """How far ahead of its destination's other jobs somebody moved it; 0: not at all."""
    urgency: int = Priority.ROUTINE
    """The order in which a destination's jobs go, lowest first: by priority, ahead of all if moved to the front."""

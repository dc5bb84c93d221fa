"""Jobs as the API gives them. Nothing here names a patient; ``text`` of a message does, for who may see it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from archsync.api.fields import JobId, Moment, Name, Uid
from archsync.core.job import JobStatus, JobType, WaitReason
from archsync.ledger.job_pages import JobFilter
from archsync.services.job_instances import InstanceStatus


class JobQuery(BaseModel):
    """Which jobs: those that match everything that is given. Several values of one name: any of them."""

    model_config = ConfigDict(extra="forbid")

    type: list[JobType] = Field(default=[], max_length=10)
    status: list[JobStatus] = Field(default=[], max_length=10)
    destination: list[Name] = Field(default=[], max_length=100)
    gateway: list[Name] = Field(default=[], max_length=100, description="The destinations behind these gateways.")
    facility: list[Name] = Field(default=[], max_length=100, description="Facility ids of the platform.")
    since: Moment | None = Field(default=None, description="Made then or later.")
    until: Moment | None = Field(default=None, description="Made before then.")
    study: Uid | None = Field(default=None, description="A Study Instance UID.")
    job: JobId | None = None

    def as_filter(self) -> JobFilter:
        """The same for the ledger."""
        return JobFilter(
            job_types=self.type,
            statuses=self.status,
            destinations=self.destination,
            gateways=self.gateway,
            facilities=self.facility,
            since=self.since,
            until=self.until,
            study_instance_uid=self.study,
            job_ids=[] if self.job is None else [self.job],
        )


class Can(BaseModel):
    """Which actions the job's status allows; whether the user has the right is another question."""

    retry: bool
    cancel: bool
    front: bool


class JobOut(BaseModel):
    """One job as it stands."""

    job_id: int
    type: JobType
    kind_label: str = Field(description="The type in words.")
    status: JobStatus
    wait_reason: WaitReason | None = Field(description="Why a waiting job waits, as things stand now.")
    destination: str
    gateway: str | None
    facility: str | None
    priority: str
    is_in_front: bool = Field(description="Somebody moved it ahead of its destination's other jobs.")
    study_instance_uid: str | None
    about: str = Field(description="What it is about, in one sentence.")
    instances_total: int
    instances_done: int
    instances_failed: int
    bytes_total: int
    bytes_done: int
    attempts: int = Field(description="Attempts that count; see `attempt_list` of a single job for all.")
    not_before: datetime | None = Field(description="A waiting job does not start before.")
    next_attempt_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    reason: str | None = Field(description="Why it failed, waits or was not sent, in one sentence.")
    reason_code: str | None
    next_step: str = Field(description="What an administrator can do about it.")
    troubleshooting_url: str | None
    blocked_by: int | None
    parent_job_id: int | None
    superseded_by: int | None
    requested_by: str | None
    decided_by: str | None
    run_url: str | None = Field(description="Its run in Airflow.")
    can: Can


class JobPage(BaseModel):
    """Some jobs, newest first."""

    items: list[JobOut]
    next_cursor: str | None


class JobCounts(BaseModel):
    """How many jobs match in each status, whatever status the filter names; `capped_at` means that many or more."""

    counts: dict[JobStatus, int]
    capped_at: int


class AttemptOut(BaseModel):
    """One attempt of a job."""

    attempt_id: int
    try_number: int
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    reason: str | None
    reason_code: str | None
    troubleshooting_url: str | None
    instances_done: int
    bytes_done: int
    counted: bool = Field(description="It counts against the destination's maximum.")
    peer: str | None = Field(description="Whom it talked to.")
    status_code: str | None = Field(description="The peer's last answer: DIMSE status or acknowledgement code.")
    comment: str | None = Field(description="What that answer means.")
    run_url: str | None
    logs_url: str | None


class FailureOut(BaseModel):
    """An instance that the latest attempt could not send."""

    sop_instance_uid: str
    store_status: str | None = Field(description="DIMSE status, hexadecimal.")
    code: str
    message: str


class SeriesOut(BaseModel):
    """Instances of one series that a note names."""

    series_instance_uid: str
    instances: int
    sop_instance_uids: list[str] = Field(description="The first of them.")


class NoteOut(BaseModel):
    """A rejection note."""

    note_id: int
    sop_instance_uid: str
    title: str
    title_meaning: str
    study_instance_uid: str
    instances: int
    built_at: datetime
    sent_at: datetime | None
    stored_at: datetime | None
    store_status: str | None
    abandoned_at: datetime | None
    series: list[SeriesOut] | None = Field(description="None: its content is no longer kept.")


class MessageOut(BaseModel):
    """An HL7 message, without the patient."""

    control_id: str
    trigger: str
    built_at: datetime
    sent_at: datetime | None
    acknowledged_at: datetime | None
    ack_code: str | None
    unanswered: int
    text_masked: str | None = Field(description="Everything about the patient masked. None: no longer kept.")


class JobDetail(JobOut):
    """One job with all that belongs to it."""

    attempt_list: list[AttemptOut]
    failures: list[FailureOut] = Field(description="The first 100.")
    failures_total: int
    parent: JobOut | None
    steps: list[JobOut]
    depends_on: list[JobOut]
    blocks: list[JobOut] = Field(description="Jobs that wait for this one; the first 50.")
    blocker: JobOut | None
    notes: list[NoteOut]
    messages: list[MessageOut]


class InstanceOut(BaseModel):
    """One instance of a job, under the UIDs by which the archive knows it."""

    sop_instance_uid: str
    series_instance_uid: str | None
    status: InstanceStatus
    stored_at: datetime | None
    store_status: str | None = Field(description="DIMSE status, hexadecimal.")
    code: str | None
    message: str | None


class InstancePage(BaseModel):
    """Some instances of a job, by SOP Instance UID."""

    items: list[InstanceOut]
    next_cursor: str | None
    total: int
    is_complete: bool = Field(description="False: the platform did not say what is still to be sent.")


class AskForPatient(BaseModel):
    """The wish, said aloud, to see a patient; it is audited."""

    model_config = ConfigDict(extra="forbid")

    phi: Literal[True]


class UnmaskedMessage(BaseModel):
    """An HL7 message as it was sent."""

    control_id: str
    trigger: str
    text: str | None


class UnmaskedMessages(BaseModel):
    """The messages of a job as they were sent."""

    messages: list[UnmaskedMessage]


class Choice(BaseModel):
    """Something to filter by."""

    value: str
    label: str


class StatusChoice(Choice):
    """A status to filter by; `tone` is Airflow's state of the same colour."""

    tone: str


class DestinationChoice(BaseModel):
    """A destination to filter by."""

    name: str
    label: str
    enabled: bool


class Filters(BaseModel):
    """What there is to filter jobs by."""

    types: list[Choice]
    statuses: list[StatusChoice]
    destinations: list[DestinationChoice]
    gateways: list[Choice]
    facilities: list[Choice]


class Wanted(BaseModel):
    """What somebody typed."""

    model_config = ConfigDict(extra="forbid")

    text: Name


class StudyFound(BaseModel):
    """A study that was meant."""

    study_instance_uid: str
    label: str


class FoundOut(BaseModel):
    """What was found; an accession number is not repeated."""

    jobs: list[int]
    studies: list[StudyFound]
    is_complete: bool = Field(description="False: the platform could not be asked for accession numbers.")

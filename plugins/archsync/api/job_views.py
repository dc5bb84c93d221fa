"""How the ledger's jobs become the API's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fastapi import Request

from archsync.api.links import airflow_base, logs_url, run_url, troubleshooting_url
from archsync.api.models_jobs import (
    AttemptOut,
    Can,
    FailureOut,
    JobDetail,
    JobOut,
    MessageOut,
    NoteOut,
    SeriesOut,
)
from archsync.core.job import FAR_FUTURE, Job, JobStatus
from archsync.core.job_wording import LABELS, say_subject, say_wait
from archsync.core.naming import DagKind, dag_kind
from archsync.ledger.jobs import Attempt, InstanceFailure
from archsync.messages.store_status import STATUS_TABLE
from archsync.services import advice
from archsync.services.dispatch import ExplainedJob
from archsync.services.explain import DescribedJob, DescribedNote
from archsync.services.job_actions import JobAction, may
from archsync.services.message_view import DescribedMessage


def job_out(request: Request, item: ExplainedJob) -> JobOut:
    """One job as a list shows it."""
    job, waits = item.job, item.wait_reason
    code = job.reason_code if waits is None else waits.value
    return JobOut(
        job_id=job.job_id,
        type=job.job_type,
        kind_label=LABELS[job.job_type],
        status=job.status,
        wait_reason=waits,
        destination=job.destination,
        gateway=item.gateway,
        facility=job.facility_id,
        priority=job.priority.name,
        is_in_front=job.front > 0 and not job.status.is_done,
        study_instance_uid=job.study_instance_uid,
        about=say_subject(job),
        instances_total=job.instances_total,
        instances_done=job.instances_done,
        instances_failed=job.instances_failed,
        bytes_total=job.bytes_total,
        bytes_done=job.bytes_done,
        attempts=job.attempts,
        not_before=job.not_before if job.status is JobStatus.WAITING and job.not_before < FAR_FUTURE else None,
        next_attempt_at=job.next_attempt_at,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
        reason=job.reason if waits is None else say_wait(job, waits, item.blocked_by),
        reason_code=code,
        next_step=advice.next_step(job, wait_reason=waits, blocked_by=item.blocked_by),
        troubleshooting_url=troubleshooting_url(request, code) if code else None,
        blocked_by=item.blocked_by,
        parent_job_id=job.parent_job_id,
        superseded_by=job.superseded_by,
        requested_by=job.requested_by,
        decided_by=job.decided_by,
        run_url=run_url(airflow_base(request), job.dag_id, job.run_id),
        can=Can(retry=may(JobAction.RETRY, job), cancel=may(JobAction.CANCEL, job), front=may(JobAction.FRONT, job)),
    )


def jobs_out(request: Request, items: Iterable[ExplainedJob]) -> list[JobOut]:
    """Several jobs."""
    return [job_out(request, item) for item in items]


def detail_out(
    request: Request, found: DescribedJob, attempts: Sequence[Attempt], failures: Sequence[InstanceFailure]
) -> JobDetail:
    """One job with all that belongs to it."""
    job = found.job
    return JobDetail(
        **job_out(request, found.explained).model_dump(),
        attempt_list=[_attempt_out(request, job, attempt) for attempt in attempts],
        failures=[
            FailureOut(
                sop_instance_uid=f.sop_instance_uid,
                store_status=hexadecimal(f.store_status),
                code=f.code,
                message=f.message,
            )
            for f in failures
        ],
        failures_total=max(job.instances_failed, len(failures)),
        parent=job_out(request, found.parent) if found.parent else None,
        steps=jobs_out(request, found.steps),
        depends_on=jobs_out(request, found.dependencies),
        blocks=jobs_out(request, found.blocks),
        blocker=job_out(request, found.blocker) if found.blocker else None,
        notes=[_note_out(note) for note in found.notes],
        messages=[_message_out(message) for message in found.messages],
    )


def hexadecimal(status: int | None) -> str | None:
    """A DIMSE status as administrators write it: ``A700``."""
    return None if status is None else f"{status:04X}"


def _attempt_out(request: Request, job: Job, attempt: Attempt) -> AttemptOut:
    base = airflow_base(request)
    return AttemptOut(
        attempt_id=attempt.attempt_id,
        try_number=attempt.try_number,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        outcome=attempt.outcome,
        reason=attempt.reason,
        reason_code=attempt.reason_code,
        troubleshooting_url=troubleshooting_url(request, attempt.reason_code) if attempt.reason_code else None,
        instances_done=attempt.instances_done,
        bytes_done=attempt.bytes_done,
        counted=attempt.counted,
        peer=attempt.peer,
        status_code=attempt.status_code,
        comment=_meaning(job, attempt.status_code),
        run_url=run_url(base, attempt.dag_id, attempt.run_id),
        logs_url=logs_url(base, job.job_type, attempt.dag_id, attempt.run_id, attempt.try_number),
    )


_ACKNOWLEDGEMENTS = {
    "AA": "The receiver took it.",
    "CA": "The receiver has it safe.",
    "AE": "The receiver found an error in it.",
    "AR": "The receiver rejected it.",
    "CE": "The receiver could not take it.",
    "CR": "The receiver rejected it.",
}


def _meaning(job: Job, status_code: str | None) -> str | None:
    if status_code is None:
        return None
    if dag_kind(job.job_type) is DagKind.ADT:
        return _ACKNOWLEDGEMENTS.get(status_code)
    status = int(status_code, 16)
    return next((row.message for row in STATUS_TABLE if row.first <= status <= row.last), None)


def _note_out(note: DescribedNote) -> NoteOut:
    record = note.record
    return NoteOut(
        note_id=record.note_id,
        sop_instance_uid=record.sop_instance_uid,
        title=record.title.value,
        title_meaning=record.title.meaning,
        study_instance_uid=record.study_instance_uid,
        instances=record.instances,
        built_at=record.built_at,
        sent_at=record.sent_at,
        stored_at=record.stored_at,
        store_status=hexadecimal(record.store_status),
        abandoned_at=record.abandoned_at,
        series=None
        if note.series is None
        else [
            SeriesOut(
                series_instance_uid=s.series_instance_uid,
                instances=s.instances,
                sop_instance_uids=list(s.first_sop_instance_uids),
            )
            for s in note.series
        ],
    )


def _message_out(message: DescribedMessage) -> MessageOut:
    return MessageOut(
        control_id=message.control_id,
        trigger=message.trigger_event,
        built_at=message.built_at,
        sent_at=message.first_sent_at,
        acknowledged_at=message.acknowledged_at,
        ack_code=message.ack_code,
        unanswered=message.unanswered,
        text_masked=message.text,
    )

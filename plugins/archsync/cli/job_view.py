"""How ``archsync jobs`` shows a job."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from archsync.cli.output import count, moment, plain, size, write_facts, write_table
from archsync.core.job import Job, JobStatus, JobType, WaitReason
from archsync.ledger.jobs import Attempt, InstanceFailure
from archsync.services import advice
from archsync.services.dispatch import ExplainedJob
from archsync.services.explain import DescribedJob, DescribedNote
from archsync.services.message_view import DescribedMessage


def say_type(job: Job) -> str:
    """``dicom``; of an ADT message also what it tells: ``adt (merge)``."""
    return f"{job.job_type.value} ({job.adt_change.value})" if job.adt_change else job.job_type.value


def say_status(item: ExplainedJob) -> str:
    """The status with what it waits for, or the code it failed with or was suppressed by."""
    if item.wait_reason is WaitReason.LANE:
        return f"waiting (job {item.blocked_by} first)"
    if item.wait_reason is not None:
        return f"waiting ({item.wait_reason.value.replace('_', ' ')})"
    if item.job.status in _WITH_CODE and item.job.reason_code:
        return f"{item.job.status.value} ({item.job.reason_code})"
    return item.job.status.value


_WITH_CODE = (JobStatus.FAILED, JobStatus.RETRYING, JobStatus.SUPPRESSED)


def images(job: Job) -> str:
    """Done and all; a change has only a number of its own, what is done its steps say; a message has none."""
    if job.job_type is JobType.ADT:
        return ""
    return str(job.instances_total) if job.job_type is JobType.IOCM else f"{job.instances_done}/{job.instances_total}"


# For people


def write_job(found: DescribedJob, attempts: Sequence[Attempt], failures: Sequence[InstanceFailure]) -> None:
    """Write all that is known of a job."""
    _write_facts(found)
    _write_steps(found.steps)
    _write_attempts(attempts)
    _write_failures(failures, found.job)
    for note in found.notes:
        _write_note(note)
    for message in found.messages:
        _write_message(message)


def _write_facts(found: DescribedJob) -> None:
    job = found.job
    sends_images = job.job_type in (JobType.ARCHIVE, JobType.DICOM)
    progress = f"{job.instances_done} of {job.instances_total}, {job.instances_failed} not stored"
    if not sends_images:
        progress = f"{images(job)} to withdraw" if job.job_type is not JobType.ADT else ""
    is_scheduled = job.status is JobStatus.WAITING and job.not_before.year < 9999
    write_facts(
        [
            ("job", job.job_id),
            ("type", say_type(job)),
            ("status", say_status(found.explained)),
            ("reason", f"{job.reason} [{job.reason_code}]" if job.reason_code else job.reason),
            ("next step", _next_step(found.explained)),
            ("blocked by", _say_job(found.blocker)),
            ("step of", _say_job(found.parent)),
            ("waits for", "; ".join(map(_say_job, found.dependencies))),
            ("destination", job.destination),
            ("study", job.study_instance_uid),
            ("facility", job.facility_id),
            ("priority", f"{job.priority.name}, moved to the front" if job.front else job.priority.name),
            ("images", progress),
            ("bytes", f"{size(job.bytes_done)} of {size(job.bytes_total)}" if sends_images else ""),
            ("sends", _say_rate(job)),
            ("made", moment(job.created_at)),
            ("may start", moment(job.not_before) if is_scheduled else ""),
            ("started", moment(job.started_at)),
            ("next attempt", moment(job.next_attempt_at)),
            ("finished", moment(job.finished_at)),
            ("attempts counted", job.attempts),
            ("asked for by", job.requested_by),
            ("decided by", job.decided_by),
            ("taken over by", f"job {job.superseded_by}" if job.superseded_by else None),
            ("Airflow", f"DAG {job.dag_id}, run {job.run_id}, try {job.try_number}" if job.run_id else None),
        ]
    )


def _say_rate(job: Job) -> str:
    return f"{size(job.bytes_per_s)}/s over {count(job.associations, 'association')}" if job.associations else ""


def _say_job(item: ExplainedJob | None) -> str:
    return "" if item is None else f"job {item.job.job_id}, {say_type(item.job)}, {item.job.status.value}"


def _write_steps(steps: Sequence[ExplainedJob]) -> None:
    if not steps:
        return
    click.echo()
    write_table(
        ("STEP", "TYPE", "STATUS", "IMAGES", "STUDY", "REASON"),
        [
            (
                item.job.job_id,
                say_type(item.job),
                say_status(item),
                images(item.job),
                item.job.study_instance_uid,
                item.job.reason,
            )
            for item in steps
        ],
        empty="",
    )


def _write_attempts(attempts: Sequence[Attempt]) -> None:
    if not attempts:
        return
    click.echo()
    write_table(
        ("TRY", "STARTED", "ENDED", "OUTCOME", "DONE", "REASON"),
        [
            (a.try_number, moment(a.started_at), moment(a.finished_at), a.outcome, a.instances_done, _reason(a))
            for a in attempts
        ],
        empty="",
    )


def _write_failures(failures: Sequence[InstanceFailure], job: Job) -> None:
    if not failures:
        return
    click.echo()
    write_table(
        ("SOP INSTANCE UID", "STATUS", "CODE", "MESSAGE"),
        [(f.sop_instance_uid, _hexadecimal(f.store_status), f.code, f.message) for f in failures],
        empty="",
    )
    if len(failures) < job.instances_failed:
        click.echo(f"The first {len(failures)} of {job.instances_failed} are shown.")


def _write_note(note: DescribedNote) -> None:
    record = note.record
    stored = f"{moment(record.stored_at)} (status {_hexadecimal(record.store_status)})" if record.stored_at else ""
    click.echo()
    write_facts(
        [
            ("rejection note", record.sop_instance_uid),
            ("title", f"{record.title} ({record.title.meaning})"),
            ("names", f"{count(record.instances, 'instance')} of study {record.study_instance_uid}"),
            ("scope, part", f"{record.scope}, {record.part}"),
            ("built", moment(record.built_at)),
            ("first sent", moment(record.sent_at)),
            ("stored", stored),
            ("given up", moment(record.abandoned_at)),
        ]
    )
    if note.series is None:
        click.echo("Its content is no longer kept.")
    for series in note.series or ():
        more = series.instances - len(series.first_sop_instance_uids)
        uids = ", ".join(series.first_sop_instance_uids) + (f" and {more} more" if more else "")
        click.echo(f"  series {series.series_instance_uid}: {count(series.instances, 'instance')}: {uids}")


def _write_message(message: DescribedMessage) -> None:
    taken = f"{moment(message.acknowledged_at)} ({message.ack_code})" if message.acknowledged_at else ""
    click.echo()
    write_facts(
        [
            ("ADT message", f"{message.trigger_event} {message.control_id}"),
            ("built", moment(message.built_at)),
            ("first sent", moment(message.first_sent_at)),
            ("unanswered", count(message.unanswered, "time") if message.unanswered else ""),
            ("acknowledged", taken),
        ]
    )
    for line in (message.text or "Its content is no longer kept.").splitlines():
        click.echo(f"  {line}" if message.text else line)


def _next_step(item: ExplainedJob) -> str:
    return advice.next_step(item.job, wait_reason=item.wait_reason, blocked_by=item.blocked_by)


def _reason(attempt: Attempt) -> str:
    return f"{attempt.reason or ''} [{attempt.reason_code}]" if attempt.reason_code else attempt.reason or ""


def _hexadecimal(store_status: int | None) -> str:
    return "" if store_status is None else f"{store_status:04X}"


# For programs


def as_json(item: ExplainedJob) -> dict[str, Any]:
    """A job for programs. The platform's keys of patients stay out."""
    job = item.job
    return {
        "job_id": job.job_id,
        "job_type": job.job_type.value,
        "adt_change": plain(job.adt_change),
        "parent_job_id": job.parent_job_id,
        "status": job.status.value,
        "wait_reason": plain(item.wait_reason),
        "blocked_by": item.blocked_by,
        "reason_code": job.reason_code,
        "reason": job.reason,
        "next_step": _next_step(item),
        "destination": job.destination,
        "study_instance_uid": job.study_instance_uid,
        "study_key": job.study_key,
        "facility_id": job.facility_id,
        "priority": job.priority.name,
        "is_in_front": job.front > 0,
        "instances_total": job.instances_total,
        "instances_done": job.instances_done,
        "instances_failed": job.instances_failed,
        "bytes_total": job.bytes_total,
        "bytes_done": job.bytes_done,
        "bytes_per_s": job.bytes_per_s,
        "associations": job.associations,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "not_before": job.not_before,
        "started_at": job.started_at,
        "next_attempt_at": job.next_attempt_at,
        "finished_at": job.finished_at,
        "requested_by": job.requested_by,
        "decided_by": job.decided_by,
        "superseded_by": job.superseded_by,
        "dag_id": job.dag_id,
        "run_id": job.run_id,
        "try_number": job.try_number,
    }


def details_as_json(
    found: DescribedJob, attempts: Iterable[Attempt], failures: Iterable[InstanceFailure]
) -> dict[str, Any]:
    """All that is known of a job, for programs."""
    return {
        **as_json(found.explained),
        "depends_on": [item.job.job_id for item in found.dependencies],
        "steps": [as_json(step) for step in found.steps],
        "attempt_list": [{k: v for k, v in asdict(a).items() if k != "job_id"} for a in attempts],
        "failures": [asdict(f) for f in failures],
        "notes": [_note_as_json(note) for note in found.notes],
        "messages": [asdict(m) for m in found.messages],
    }


def _note_as_json(note: DescribedNote) -> dict[str, Any]:
    record = {k: v for k, v in asdict(note.record).items() if k not in ("encoded", "note_id")}
    return {
        **record,
        "title": note.record.title.value,
        "series": None if note.series is None else [asdict(series) for series in note.series],
    }

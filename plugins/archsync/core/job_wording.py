"""Jobs in sentences for administrators: what each is about, and why it waits. No sentence says who a patient is."""

from __future__ import annotations

from archsync.core.job import FAR_FUTURE, AdtChange, Job, JobStatus, JobType, WaitReason
from archsync.core.wording import count, moment

#: What a job of a type is called on a page.
LABELS = {
    JobType.ARCHIVE: "Archive study",
    JobType.DICOM: "Send images",
    JobType.IOCM: "Withdraw",
    JobType.KOS: "Rejection note",
    JobType.ADT: "Patient message",
}

_CHANGES = {
    AdtChange.MERGE: "Tell that another record of the patient gave way to this one",
    AdtChange.IDENTIFIER: "Tell that the patient has another identifier",
    AdtChange.DEMOGRAPHICS: "Tell that the patient's name, birth date or sex changed",
}


def say_subject(job: Job) -> str:
    """What a job is about, in one sentence without a full stop."""
    if job.job_type is JobType.ADT:
        return _CHANGES[job.adt_change] if job.adt_change else "Tell of a change of the patient"
    study = f"study {job.study_instance_uid}"
    named = count(job.instances_total, "instance")
    if job.job_type is JobType.IOCM:
        return (
            f"{'Withdraw' if job.instances_total else 'Change'} {f'{named} of ' if job.instances_total else ''}{study}"
        )
    if job.job_type is JobType.KOS:
        return f"Rejection note: {named} of {study}"
    return f"{count(job.instances_total, 'image')} of {study}"


_WAITS = {
    WaitReason.SETTLING: "More images may still arrive",
    WaitReason.EXAM_STATUS: "The exam is not, or no longer, at the destination's trigger status.",
    WaitReason.HOLD: "The study is on hold.",
    WaitReason.DISABLED: "Destination {destination} is disabled.",
    WaitReason.SUSPENDED: "The destination's DAG is switched off in Airflow.",
    WaitReason.SEND_WINDOW: "It is outside the destination's send window.",
    WaitReason.DESTINATION_DOWN: "Destination {destination} does not answer; it is tried again and again.",
    WaitReason.LANE: "Job {blocked_by}, on the same study or patient, has to finish first.",
    WaitReason.IDENTIFIER: "The archive knows another patient by this one's identifier.",
    WaitReason.QUEUE: "Its turn has not come; the destination works on other jobs.",
}


def say_wait(job: Job, reason: WaitReason, blocked_by: int | None) -> str:
    """Why a job waits, in a sentence."""
    if reason is WaitReason.SETTLING:
        until = (
            f"; it starts at {moment(job.not_before)} at the latest unless they do"
            if job.not_before < FAR_FUTURE
            else ""
        )
        return f"{_WAITS[reason]}{until}."
    return _WAITS[reason].format(destination=job.destination, blocked_by=blocked_by)


#: What is said of a status on a page, and the colour of Airflow's that it has there.
STATUS_TONES = {
    JobStatus.WAITING: "none",
    JobStatus.READY: "queued",
    JobStatus.RUNNING: "running",
    JobStatus.RETRYING: "up_for_retry",
    JobStatus.SUCCEEDED: "success",
    JobStatus.FAILED: "failed",
    JobStatus.SUPPRESSED: "skipped",
    JobStatus.CANCELLED: "removed",
}

"""What an administrator can do about a job that does not move, in one sentence."""

from __future__ import annotations

from archsync.core.archive_answers import ANSWERS
from archsync.core.job import Job, JobStatus, WaitReason
from archsync.core.profiles import ArchiveProfile
from archsync.errors import InvalidInput
from archsync.messages.hl7_ack import ACK_TABLE
from archsync.messages.note_status import NOT_ACCEPTED
from archsync.messages.store_status import STATUS_TABLE

_NOTHING = "Nothing to do."

_WAITING = {
    WaitReason.SETTLING: "Nothing to do: it starts when no more images arrive.",
    WaitReason.EXAM_STATUS: "Nothing to do: it goes on when the exam reaches the destination's trigger status again.",
    WaitReason.HOLD: "Release it: `archsync hold list` shows who holds it back here; if nobody, the platform does.",
    WaitReason.DISABLED: "`archsync destination enable {destination}` lets it run.",
    WaitReason.SUSPENDED: "Switch the destination's DAG on in Airflow.",
    WaitReason.SEND_WINDOW: "Nothing to do: it starts when the destination's send window opens.",
    WaitReason.DESTINATION_DOWN: "`archsync destination test {destination}` says where it fails.",
    WaitReason.LANE: "See to job {blocked_by}, which has to finish first.",
    WaitReason.IDENTIFIER: "Nothing to do: it goes on when the archive has learnt the other patient's new identifier.",
    WaitReason.QUEUE: _NOTHING,
}

_ON_PLATFORM = f"{InvalidInput.next_step.removesuffix(', then retry.')}, then `archsync jobs retry {{job_id}}`."

#: Codes of failed jobs, beside those of C-STORE statuses.
_FAILED = {
    "file-missing": _ON_PLATFORM,
    "file-unreadable": _ON_PLATFORM,
    "file-truncated": _ON_PLATFORM,
    "file-not-dicom": _ON_PLATFORM,
    "file-not-regular": _ON_PLATFORM,
    "file-changed": _ON_PLATFORM,
    "uid-mismatch": _ON_PLATFORM,
    "unknown-location-scheme": _ON_PLATFORM,
    "marked-failed": "`archsync jobs retry {job_id}` starts it afresh.",
    "sop-class-not-accepted": "Enable the SOP class at the archive, then `archsync jobs retry {job_id}`.",
    "transfer-syntax-not-accepted": "Enable the transfer syntax at the archive, then `archsync jobs retry {job_id}`.",
    **{row.code: row.next_step for row in STATUS_TABLE},
    **{row.for_note.code: row.for_note.next_step for row in ANSWERS[ArchiveProfile.DCM4CHEE]},
    NOT_ACCEPTED.code: NOT_ACCEPTED.next_step,
    "replacement-missing": "`archsync plan` says why the study that the reason names is not sent; or cancel the job.",
    "note-not-honoured": "Switch IOCM on at the archive, then `archsync jobs retry {job_id}`; or, if it has none,"
    " withdraw the instances there by hand, then `archsync jobs cancel {job_id}`.",
    "withdraw-by-hand": "Withdraw the instances at the archive by hand, then `archsync jobs cancel {job_id}`; or, if it"
    " honours notes, `archsync destination set {destination} supports_iocm=true`, then `archsync jobs retry {job_id}`.",
    **{row.code: row.next_step for row in ACK_TABLE},
    "adt-not-configured": "`archsync destination set {destination} adt_host=…` names a receiver, then `archsync jobs"
    " retry {job_id}`; or correct the patient there by hand, then `archsync jobs cancel {job_id}`.",
    "adt-other-authority": "Merge the patients at the archive by hand, then `archsync jobs cancel {job_id}`; or correct"
    " the issuers on the platform, then `archsync jobs retry {job_id}`.",
    "adt-identifier-swap": "Correct the patients at the archive by hand, then `archsync jobs cancel {job_id}`.",
    "adt-identifier-shared": "Separate the two at the archive by hand, then `archsync jobs cancel {job_id}`.",
    "adt-identifier-taken": "See whose the identifier is, on the platform and at the archive; then `archsync jobs retry"
    " {job_id}`, or cancel it.",
    "identifier-taken": "Give each patient an identifier of their own on the platform, or see that the archive learns"
    " the other's new one; then `archsync jobs retry {job_id}`.",
    "identifier-retired": "Give the patient another identifier on the platform; or have the archive free this one,"
    " `archsync destination set {destination} adt_prior_identifier=freed`, then `archsync jobs retry {job_id}`.",
    "hl7-character-set": "`archsync destination set {destination} adt_character_set=…` names a set that holds the name,"
    " then `archsync jobs retry {job_id}`.",
}

#: Codes of suppressed jobs. What a setting keeps back is planned again by itself once that is another.
SUPPRESSED = {
    "iocm-not-supported": "If the archive honours rejection notes: where supports_iocm is off, `archsync destination"
    " set {destination} supports_iocm=true`, and it is planned again; where it refused them, have it take Key Object"
    " Selections, then `archsync jobs retry {job_id}`. If it does not, withdraw the instances there by hand.",
    "iocm-title-disabled": "Nothing to do if this is wanted; else give the reason a title in rejection_titles of"
    " {destination}: it is planned again.",
    "iocm-retention-disabled": "Nothing to do if this is wanted; else add retention_expired=113039 to rejection_titles"
    " of {destination}: it is planned again.",
    "adt-not-configured": "If the archive takes HL7, `archsync destination set {destination} adt_host=…`: it is planned"
    " again. If not, correct the patient there by hand.",
}

_OTHERWISE = "Correct the cause that the reason names, then `archsync jobs retry {job_id}`."


def next_step(job: Job, *, wait_reason: WaitReason | None, blocked_by: int | None) -> str:
    """Say what to do about a job as it stands."""
    if job.status is JobStatus.FAILED:
        sentence = _FAILED.get(job.reason_code or "", _OTHERWISE)
    elif job.status is JobStatus.SUPPRESSED:
        sentence = SUPPRESSED.get(job.reason_code or "", _NOTHING)
    elif job.status is JobStatus.WAITING and wait_reason is not None:
        sentence = _WAITING[wait_reason]
    elif job.status is JobStatus.RETRYING:
        sentence = "Nothing to do: archsync tries again by itself."
    else:
        sentence = _NOTHING
    return sentence.format(job_id=job.job_id, destination=job.destination, blocked_by=blocked_by)

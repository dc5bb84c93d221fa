"""What is recorded with the name of who did it: every change, every override, every look at a patient."""

from __future__ import annotations

from enum import StrEnum


class AuditAction(StrEnum):
    """What somebody did. ``docs/access.md`` has the same list in an administrator's words."""

    DESTINATION_CREATE = "destination.create"
    DESTINATION_SET = "destination.set"
    DESTINATION_OVERRIDE = "destination.override"
    """A setting was changed that is locked, for the destination holds studies."""
    DESTINATION_DELETE = "destination.delete"
    GATEWAY_CREATE = "gateway.create"
    GATEWAY_SET = "gateway.set"
    HOLD_ADD = "hold.add"
    HOLD_REMOVE = "hold.remove"
    JOB_CANCEL = "job.cancel"
    JOB_FRONT = "job.front"
    JOB_MARKED_FAILED = "job.marked-failed"
    """Its task was marked in Airflow; so in the next."""
    JOB_MARKED_SUCCESS = "job.marked-success"
    JOB_RETRY = "job.retry"
    JOB_SHOW_PHI = "job.show-phi"
    """The HL7 messages of a job were shown with the patient."""
    PATIENT_SHOWN = "patient.shown"
    """Somebody asked whose study it is."""
    STUDY_PLAN = "study.plan"
    STUDY_PUSH = "study.push"

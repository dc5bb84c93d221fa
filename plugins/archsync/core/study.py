"""What the platform says: facilities, patients, studies and instances, as its views give them.

These are values; nothing here knows a database, a socket or the clock. ``*_key`` is the platform's own stable key: it
survives a change of UID, study or patient identifier (design: the platform contract).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date, datetime, time
from enum import IntEnum, StrEnum


class ExamStatus(StrEnum):
    """The three trigger statuses, in the order an exam passes them. Any other status triggers nothing."""

    PENDING = "Pending"
    INFLIGHT = "Inflight"
    COMPLETED = "Completed"


_PROGRESS = {status.value: step for step, status in enumerate(ExamStatus)}


def is_progress(exam_status: str) -> bool:
    """Tell whether an exam status is one of the three; all others, such as ``Cancelled``, never trigger anything."""
    return exam_status in _PROGRESS


def has_reached(exam_status: str, trigger_status: ExamStatus) -> bool:
    """Tell whether an exam in ``exam_status`` has reached ``trigger_status``; unknown statuses never have."""
    step = _PROGRESS.get(exam_status)
    return step is not None and step >= _PROGRESS[trigger_status.value]


class Priority(IntEnum):
    """Order of sending: lower goes first."""

    STAT = 0
    URGENT = 1
    ROUTINE = 2


class RemovalReason(StrEnum):
    """Why the platform removed an instance."""

    QUALITY = "quality"
    PATIENT_SAFETY = "patient_safety"
    WRONG_WORKLIST_ENTRY = "wrong_worklist_entry"
    RETENTION_EXPIRED = "retention_expired"
    UNSPECIFIED = "unspecified"


@dataclass(frozen=True, slots=True)
class Facility:
    """A site of the enterprise; ``authority_*`` is the assigning authority of its patient identifiers (HL7 HD)."""

    facility_id: str
    name: str
    facility_group: str
    authority_namespace: str | None = None
    authority_universal_id: str | None = None
    authority_universal_id_type: str | None = None
    hl7_receiving_facility: str | None = None


@dataclass(frozen=True, slots=True)
class Patient:
    """A patient as the platform identifies them now. ``name`` is a DICOM PN value."""

    patient_key: str
    patient_id: str
    issuer_of_patient_id: str | None
    name: str = field(repr=False)
    birth_date: date | None = field(repr=False, default=None)
    sex: str | None = field(repr=False, default=None)
    merged_into_patient_key: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance. ``content_version`` rises when the pixels or attributes change in place."""

    instance_key: str
    study_key: str
    series_instance_uid: str
    series_number: int | None
    modality: str | None
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None
    location: str
    size_bytes: int
    content_version: int = 1
    removed_at: datetime | None = None
    removal_reason: RemovalReason | None = None
    replaces_instance_key: str | None = None
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """A study with its patient, facility and instances (removed ones included)."""

    study_key: str
    study_instance_uid: str
    patient: Patient
    facility: Facility
    exam_status: str
    priority: Priority = Priority.ROUTINE
    on_hold: bool = False
    accession_number: str | None = field(repr=False, default=None)
    study_date: date | None = None
    study_time: time | None = None
    description: str | None = field(repr=False, default=None)
    referring_physician: str | None = field(repr=False, default=None)
    study_id: str | None = None
    revision: int = 0
    instances: tuple[Instance, ...] = ()

    @property
    def present_instances(self) -> tuple[Instance, ...]:
        """The instances the platform still shows, in a stable order."""
        return tuple(sorted((i for i in self.instances if i.removed_at is None), key=lambda i: i.instance_key))

    def content_digest(self, *, with_identifier: bool = False) -> str:
        """Digest of which instances the platform shows, in which version and place.

        ``with_identifier``: and of its patient's identifier, for a job that failed because of that.
        """
        patient = self.patient
        identifier = (patient.patient_id, patient.issuer_of_patient_id or "") if with_identifier else ()
        whose = (patient.patient_key, *identifier, self.study_instance_uid)
        digest = hashlib.blake2b(("\x1f".join(whose) + "\x1e").encode(), digest_size=12)
        for i in self.present_instances:
            parts = (i.instance_key, i.content_version, i.series_instance_uid, i.sop_instance_uid)
            digest.update(("\x1f".join(map(str, parts)) + "\x1e").encode())
        return digest.hexdigest()

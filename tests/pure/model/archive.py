"""Archives that judge what comes by the receiver's own rules (``simulate``), which share nothing with the sender."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from datetime import datetime
from typing import NamedTuple

from archsync.core.identity import HeldPatient
from archsync.core.rejection import RejectionTitle
from archsync.core.study import Patient
from archsync.core.uid_map import InstanceUids
from archsync.simulate.adt_registry import ParsedMessage, PatientRegistry, Refusal, RegisteredPatient
from archsync.simulate.iocm import Arrival, IocmRules
from model.violation import Violation

CT = "1.2.840.10008.5.1.4.1.1.2"
KOS = "1.2.840.10008.5.1.4.1.1.88.59"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
SUCCESS = 0x0000


class Header(dict):
    """A data set as far as the receiver's rules look at one."""

    __getattr__ = dict.__getitem__


class Image(NamedTuple):
    """A C-STORE request of an image. ``content`` is what a radiologist would recognise it by."""

    uids: InstanceUids
    patient: HeldPatient
    content: tuple[str, int]

    @property
    def digest(self) -> bytes:
        said = (self.uids, self.content, self.patient.identifier, self.patient.demographics)
        return hashlib.blake2b(repr(said).encode(), digest_size=16).digest()


class Note(NamedTuple):
    """A rejection note as encoded: what it says and when it was built."""

    uid: str
    title: RejectionTitle
    study_instance_uid: str
    patient: HeldPatient
    names: tuple[InstanceUids, ...]
    built_at: datetime


class Message(NamedTuple):
    """An ADT message as encoded."""

    control_id: str
    trigger: str
    patient: Patient
    prior: Patient | None


def key_of(patient: Patient | HeldPatient) -> str:
    return f"{patient.patient_id}^{patient.issuer_of_patient_id}"


class Archive:
    """An archive that judges what comes by the receiver's rules, and remembers what it was sent."""

    def __init__(self, *, honours_notes: bool, creates_patients: bool, frees_identifiers: bool) -> None:
        self.rules = IocmRules() if honours_notes else None
        self.registry = PatientRegistry(frees_identifiers=frees_identifiers, on_renamed=self._rename_patient)
        self.creates_patients = creates_patients
        self.owner: dict[str, str] = {}
        self.kept: dict[str, Image] = {}
        self.hidden: set[str] = set()
        self.sent_notes: dict[str, Note] = {}
        self.sent_messages: dict[str, Message] = {}

    @property
    def shown(self) -> dict[str, Image]:
        return {uid: image for uid, image in self.kept.items() if uid not in self.hidden}

    def store(self, image: Image) -> None:
        uid = image.uids.sop_instance_uid
        if uid in self.hidden:
            raise Violation("no rejected UID is sent again", uid)
        if uid in self.kept and self.kept[uid].content != image.content:
            raise Violation("no UID names two contents", uid)
        for other in self.kept.values():
            same_series = other.uids.series_instance_uid == image.uids.series_instance_uid
            if same_series and other.uids.study_instance_uid != image.uids.study_instance_uid:
                raise Violation("a series lies in one study", image.uids.series_instance_uid)
        header = Header(
            StudyInstanceUID=image.uids.study_instance_uid, SeriesInstanceUID=image.uids.series_instance_uid
        )
        self._receive(Arrival(header, CT, uid, EXPLICIT_LE, image.digest), image.patient)
        self.kept[uid] = image

    def take_note(self, note: Note) -> None:
        if self.sent_notes.setdefault(note.uid, note) != note:
            raise Violation("resends are identical", f"note {note.uid}")
        for uids in note.names:
            if uids.sop_instance_uid not in self.kept:
                raise Violation("no note before its images", f"{uids.sop_instance_uid} is named and not here")
        series: dict[str, list[Header]] = defaultdict(list)
        for uids in note.names:
            reference = Header(ReferencedSOPClassUID=CT, ReferencedSOPInstanceUID=uids.sop_instance_uid)
            series[uids.series_instance_uid].append(reference)
        evidence = Header(
            StudyInstanceUID=note.study_instance_uid,
            ReferencedSeriesSequence=[
                Header(SeriesInstanceUID=uid, ReferencedSOPSequence=references) for uid, references in series.items()
            ],
        )
        header = Header(
            StudyInstanceUID=note.study_instance_uid,
            SeriesInstanceUID=f"{note.uid}.1",
            ConceptNameCodeSequence=[Header(CodingSchemeDesignator="DCM", CodeValue=note.title.value)],
            CurrentRequestedProcedureEvidenceSequence=[evidence],
        )
        digest = hashlib.blake2b(repr(note).encode(), digest_size=16).digest()
        self.hidden |= self._receive(Arrival(header, KOS, note.uid, EXPLICIT_LE, digest), note.patient)

    def _receive(self, arrival: Arrival, patient: HeldPatient) -> frozenset[str]:
        """Judge and admit; gives what is hidden by it."""
        study_uid = arrival.place[0]
        owner = self.owner.get(study_uid)
        is_other = owner is not None and not self.registry.is_same(owner, key_of(patient))
        hidden: frozenset[str] = frozenset()
        if self.rules is not None:
            verdict = self.rules.judge(arrival, is_other_patient=is_other)
            if verdict.status != SUCCESS:
                laws = {0xA770: "resends are identical", 0xA778: "images and notes name the study's patient"}
                law = laws.get(verdict.status, "what is sent is accepted")
                raise Violation(law, f"{arrival.sop_instance_uid} is answered {verdict.status:04X}")
            if verdict.is_kept:
                hidden = self.rules.admit(arrival).hidden
        elif is_other:
            raise Violation("images and notes name the study's patient", arrival.sop_instance_uid)
        if owner is None:
            birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
            known = RegisteredPatient(birth_date=birth_date, sex=patient.sex or "", dicom_name=patient.name)
            self.owner[study_uid] = self.registry.admit(key_of(patient), known)
        return hidden

    def _rename_patient(self, old: str, new: str) -> None:
        self.owner = {study: new if key == old else key for study, key in self.owner.items()}

    def take_message(self, message: Message) -> Refusal | None:
        if self.sent_messages.setdefault(message.control_id, message) != message:
            raise Violation("resends are identical", f"message {message.control_id}")
        if message.prior is not None and key_of(message.prior) == key_of(message.patient):
            raise Violation("nobody gives way to themselves", message.control_id)
        parsed = ParsedMessage(message.control_id, message.trigger, "2.5.1", "", _segments(message))
        try:
            self.registry.take(parsed, creates_patients=self.creates_patients)
        except Refusal as refusal:
            return refusal
        return None

    def patient_of(self, study_instance_uid: str) -> tuple[str, str]:
        """``id^issuer`` and name, as a query finds them."""
        key, patient = self.registry.current(self.owner[study_instance_uid])
        return key, patient.dicom_name


def _segments(message: Message) -> dict[str, list[str]]:
    patient, prior = message.patient, message.prior
    birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else '""'
    pid = ["PID", "", "", _cx(patient), "", patient.name, "", birth_date, patient.sex or '""']
    return {"PID": pid, **({"MRG": ["MRG", _cx(prior)]} if prior else {})}


def _cx(patient: Patient) -> str:
    return f"{patient.patient_id}^^^{patient.issuer_of_patient_id}"

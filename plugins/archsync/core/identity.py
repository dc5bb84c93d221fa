"""Patients as archives know them, and the ADT messages that bring an archive in step with the platform.

An archive learns a patient from the first instance it stores, and anything later from HL7. So what was sent first, or
acknowledged last, is remembered per destination and compared with the platform: another identifier, or a patient merged
into another, is an A40 (ITI-30; ITI-8); other demographics are an A08. Identifier first: an A08 that names an
identifier which gave way is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from archsync.core.destination import Destination
from archsync.core.job import AdtChange, JobStatus, KnownJob
from archsync.core.placing import Survivors, root
from archsync.core.study import Patient


@dataclass(frozen=True, slots=True)
class HeldPatient:
    """A patient as one archive knows them. ``merged_into``: they gave way to another there.

    ``is_introduced`` False: something of theirs was offered, and nothing acknowledged.
    """

    patient_key: str
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str | None = field(repr=False, default=None)
    name: str = field(repr=False, default="")
    birth_date: date | None = field(repr=False, default=None)
    sex: str | None = field(repr=False, default=None)
    merged_into: str | None = None
    is_introduced: bool = True

    @classmethod
    def of(cls, patient: Patient) -> HeldPatient:
        """The patient as the platform has it now, for an archive that is told of it."""
        return cls(
            patient.patient_key,
            patient.patient_id,
            patient.issuer_of_patient_id,
            patient.name,
            patient.birth_date,
            patient.sex,
        )

    @property
    def identifier(self) -> tuple[str, str]:
        """Patient ID and issuer, empty without one."""
        return self.patient_id, self.issuer_of_patient_id or ""

    @property
    def demographics(self) -> tuple[str, date | None, str]:
        """What an A08 carries, as it compares: trailing delimiters of a name mean nothing (PS3.5 6.2.1)."""
        groups = (group.rstrip("^ ") for group in self.name.split("="))
        return "=".join(groups).rstrip("= "), self.birth_date, self.sex or ""

    def as_patient(self, patient: Patient) -> Patient:
        """The platform's patient, with what this archive knows in place of what it does not know yet."""
        return replace(
            patient,
            patient_id=self.patient_id,
            issuer_of_patient_id=self.issuer_of_patient_id,
            name=self.name,
            birth_date=self.birth_date,
            sex=self.sex,
        )


def known_as(patient_key: str, held: Mapping[str, HeldPatient], survivors: Survivors) -> HeldPatient | None:
    """How an archive knows a patient; None: not yet. Of several that are one on the platform, the survivor first."""
    alive = {
        key: known
        for key, known in sorted(held.items())
        if known.merged_into is None and root(key, survivors) == root(patient_key, survivors)
    }
    return alive.get(root(patient_key, survivors)) or alive.get(patient_key) or next(iter(alive.values()), None)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A rule under which nothing is sent: its code, and the sentence for an administrator."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class AdtWork:
    """A message to send about a patient. With ``suppressed`` it is only recorded, with the rule.

    ``patient_key`` is the patient who stays; ``prior_patient_key`` who gave way, in a merge. ``supersedes``: failed
    jobs about an earlier state of the same.
    """

    change: AdtChange
    patient_key: str
    prior_patient_key: str | None
    content_digest: str
    suppressed: Suppressed | None = None
    supersedes: tuple[int, ...] = ()


def plan_identity(
    patient: Patient,
    held: Mapping[str, HeldPatient],
    survivors: Survivors,
    *,
    known: Iterable[KnownJob],
    destination: Destination,
) -> tuple[AdtWork, ...]:
    """Name the messages that tell a destination what it does not know yet of a patient, in the order they must go.

    ``held`` may hold others too: those of them that were merged into this patient count.
    """
    known = tuple(known)
    work = (
        _plan_one(change, old, patient, known, destination) for change, old in differences(patient, held, survivors)
    )
    return tuple(w for w in work if w is not None)


def differences(
    patient: Patient, held: Mapping[str, HeldPatient], survivors: Survivors
) -> list[tuple[AdtChange, HeldPatient]]:
    """What an archive does not know yet of a patient: each change with what it knows instead."""
    now = HeldPatient.of(patient)
    # Of somebody it may never have heard of, an archive is told nothing.
    held = {key: known for key, known in held.items() if known.is_introduced}
    changes: list[tuple[AdtChange, HeldPatient]] = []
    own = held.get(patient.patient_key)
    if own is not None and own.merged_into is None and own.identifier != now.identifier:
        changes.append((AdtChange.IDENTIFIER, own))
    for key, prior in sorted(held.items()):
        if key != patient.patient_key and prior.merged_into is None and root(key, survivors) == patient.patient_key:
            changes.append((AdtChange.MERGE, prior))
    if own is not None and own.merged_into is None and own.demographics != now.demographics:
        changes.append((AdtChange.DEMOGRAPHICS, own))
    return changes


def _plan_one(
    change: AdtChange, old: HeldPatient, patient: Patient, known: tuple[KnownJob, ...], destination: Destination
) -> AdtWork | None:
    prior_key = old.patient_key if change is AdtChange.MERGE else None
    digest = _digest(change, old, HeldPatient.of(patient))
    # Of a merge whoever gives way tells which it is: into whom may have changed.
    about = (None, patient.patient_key) if prior_key is None else (prior_key, None)
    same = [j for j in known if j.adt_change is change and about == _about(j)]
    if any(not j.status.is_done and j.status is not JobStatus.FAILED for j in same):
        return None  # it finds what to say when it runs, and the patient is looked at again when it ended
    rule = rule_against(destination)
    if any(j.content_digest == digest and (rule or j.status is not JobStatus.SUPPRESSED) for j in same):
        return None  # failed, cancelled or suppressed, for this very difference
    return AdtWork(
        change,
        patient.patient_key,
        prior_key,
        digest,
        suppressed=rule,
        supersedes=tuple(j.job_id for j in same if j.status is JobStatus.FAILED),
    )


def _about(job: KnownJob) -> tuple[str | None, str | None]:
    return (None, job.patient_key) if job.prior_patient_key is None else (job.prior_patient_key, None)


def rule_against(destination: Destination) -> Suppressed | None:
    """The rule under which a destination is not told of a changed patient, or None."""
    if destination.adt is None:
        return Suppressed(
            "adt-not-configured",
            f"Destination {destination.name} has no ADT receiver (adt_host): its patient stays as it is known there.",
        )
    return None


def _digest(change: AdtChange, old: HeldPatient, new: HeldPatient) -> str:
    said: tuple[object, ...] = (*old.identifier, *new.identifier)
    if change is AdtChange.DEMOGRAPHICS:
        said = (*old.demographics, *new.demographics)
    text = "\x1f".join(map(str, (change.value, old.patient_key, new.patient_key, *said)))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

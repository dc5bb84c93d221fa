"""What one ADT message says: who the patient is, whose identifier ends, and what the archive knows afterwards.

A message names patients by the identifiers the archive knows, and brings in a new one only where that is what it is
about. So messages of one patient may wait for, or fail before, one another, and none makes a second patient there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from archsync.core.identity import HeldPatient, differences
from archsync.core.job import AdtChange
from archsync.core.placing import Survivors
from archsync.core.study import Patient


@dataclass(frozen=True, slots=True)
class Statement:
    """One message, not yet in HL7. ``prior``: the patient with the identifier that ends (MRG), None in an update.

    ``known_after`` is what the archive knows of the patient once it acknowledged. ``brings_identifier``: the archive
    does not know the patient by this identifier yet. ``clears_birth_date``: it knows one, and there is none any more.
    """

    change: AdtChange
    patient: Patient
    known_after: HeldPatient
    prior: Patient | None = None
    brings_identifier: bool = False
    clears_birth_date: bool = False


def find_statement(
    change: AdtChange,
    patient: Patient,
    held: Mapping[str, HeldPatient],
    survivors: Survivors,
    *,
    prior_patient_key: str | None = None,
) -> Statement | None:
    """What is to be said now about one kind of change; None: the archive knows it already.

    ``patient`` as the platform has them, a survivor; ``held``: how the archive knows them, and who gave way to them.
    """
    old = next(
        (
            known
            for found, known in differences(patient, held, survivors)
            if found is change and (change is not AdtChange.MERGE or known.patient_key == prior_patient_key)
        ),
        None,
    )
    if old is None:
        return None
    now, own = HeldPatient.of(patient), held.get(patient.patient_key)
    if change is AdtChange.DEMOGRAPHICS:
        return Statement(
            change,
            _identified_as(patient, old),
            replace(now, patient_id=old.patient_id, issuer_of_patient_id=old.issuer_of_patient_id),
            clears_birth_date=old.birth_date is not None and patient.birth_date is None,
        )
    if change is AdtChange.MERGE and own is not None and own.merged_into is None:
        return Statement(change, _identified_as(patient, own), own, prior=old.as_patient(patient))
    # ITI-30 3.30.4.4.3: an A40 changes no demographics, so they stand as they did until an A08 was acknowledged.
    known_after = replace(
        old, patient_key=now.patient_key, patient_id=now.patient_id, issuer_of_patient_id=now.issuer_of_patient_id
    )
    return Statement(change, patient, known_after, prior=old.as_patient(patient), brings_identifier=True)


def _identified_as(patient: Patient, known: HeldPatient) -> Patient:
    return replace(patient, patient_id=known.patient_id, issuer_of_patient_id=known.issuer_of_patient_id)

"""Patients as each destination knows them: from the first instance stored there, then from ADT messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from archsync.core.identity import HeldPatient
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("patients")


def held(
    ledger: Ledger, destination_ids: Collection[int], patient_keys: Collection[str]
) -> dict[int, dict[str, HeldPatient]]:
    """How destinations know some patients: destination id → patient key → patient."""
    found: dict[int, dict[str, HeldPatient]] = {destination_id: {} for destination_id in destination_ids}
    wanted = {"patient_keys": list(patient_keys), "destination_ids": list(destination_ids)}
    for row in ledger.fetch_all(SQL["held"], wanted):
        patient = HeldPatient(**{name: value for name, value in row.items() if name != "destination_id"})
        found[row["destination_id"]][patient.patient_key] = patient
    return found


def learn(ledger: Ledger, destination_id: int, patient: HeldPatient) -> None:
    """Remember how a destination gets to know a patient; one it knows already stays as it is."""
    ledger.execute(SQL["learn"], _row(destination_id, patient))


def tell(ledger: Ledger, destination_id: int, patient: HeldPatient, *, prior_patient_key: str | None = None) -> None:
    """Record what a destination acknowledged: how it knows a patient now, and who gave way to them."""
    ledger.execute(SQL["tell"], _row(destination_id, patient))
    ledger.execute(SQL["revive"], _identifier(destination_id, *patient.identifier))
    if prior_patient_key is not None:
        merge(ledger, destination_id, prior_patient_key, into=patient.patient_key)


def merge(ledger: Ledger, destination_id: int, patient_key: str, *, into: str) -> None:
    """Record that a patient gave way to another at a destination."""
    ledger.execute(SQL["merge"], {"destination_id": destination_id, "patient_key": patient_key, "merged_into": into})


def holders(ledger: Ledger, destination_id: int, patient_id: str, issuer_of_patient_id: str | None) -> set[str]:
    """The keys of the patients that a destination knows by an identifier."""
    wanted = {
        "destination_id": destination_id,
        "patient_id": patient_id,
        "issuer_of_patient_id": issuer_of_patient_id,
    }
    return {row["patient_key"] for row in ledger.fetch_all(SQL["holders"], wanted)}


def known_by(ledger: Ledger, destination_id: int, patient_id: str, issuer_of_patient_id: str) -> list[HeldPatient]:
    """The patients that a destination knows by an identifier, or may know by it. ``issuer_of_patient_id`` may be empty.

    Where one of two issuers is missing, they count as the same, as they do at archives.
    """
    wanted = _identifier(destination_id, patient_id, issuer_of_patient_id)
    return [HeldPatient(**row) for row in ledger.fetch_all(SQL["known_by"], wanted)]


def retire(ledger: Ledger, destination_id: int, patient: HeldPatient) -> None:
    """Record that a message ended the patient's identifier at a destination, which may keep it for them."""
    identifier = _identifier(destination_id, *patient.identifier)
    ledger.execute(SQL["retire"], {**identifier, "patient_key": patient.patient_key})


def gave_up(ledger: Ledger, destination_id: int, patient_id: str, issuer_of_patient_id: str) -> set[str]:
    """The keys of those whose an identifier was at a destination before it was retired; as :func:`known_by`."""
    wanted = _identifier(destination_id, patient_id, issuer_of_patient_id)
    return {row["patient_key"] for row in ledger.fetch_all(SQL["gave_up"], wanted)}


def file(ledger: Ledger, destination_id: int, study_instance_uid: str, patient_key: str) -> None:
    """Remember as whose a study first went to a destination; by its UID there."""
    wanted = {"destination_id": destination_id, "study_instance_uid": study_instance_uid, "patient_key": patient_key}
    ledger.execute(SQL["file"], wanted)


def filed_under(ledger: Ledger, destination_id: int, study_instance_uid: str) -> HeldPatient | None:
    """The patient whose a study is at a destination, after the merges acknowledged there; None: it never went there."""
    wanted = {"destination_id": destination_id, "study_instance_uid": study_instance_uid}
    row = ledger.fetch_one(SQL["filed_under"], wanted)
    return None if row is None else follow(ledger, destination_id, row["patient_key"])


def follow(ledger: Ledger, destination_id: int, patient_key: str) -> HeldPatient | None:
    """A patient as a destination knows them, or the one to whom they gave way there; None: it never heard of them."""
    passed: set[str] = set()
    found: HeldPatient | None = None
    key: str | None = patient_key
    while key is not None and key not in passed:
        passed.add(key)
        found = held(ledger, [destination_id], [key])[destination_id].get(key, found)
        key = None if found is None else found.merged_into
    return found


def introduce(ledger: Ledger, destination_id: int, study_instance_uids: Collection[str]) -> None:
    """A destination acknowledged something of these studies: from now on it knows their patients."""
    wanted = {"destination_id": destination_id, "study_instance_uids": list(study_instance_uids)}
    ledger.execute(SQL["introduce"], wanted)


def _identifier(destination_id: int, patient_id: str, issuer_of_patient_id: str) -> dict[str, Any]:
    return {
        "destination_id": destination_id,
        "patient_id": patient_id,
        "issuer_of_patient_id": issuer_of_patient_id or None,
    }


def _row(destination_id: int, patient: HeldPatient) -> dict[str, Any]:
    return {
        "destination_id": destination_id,
        "patient_key": patient.patient_key,
        "patient_id": patient.patient_id,
        "issuer_of_patient_id": patient.issuer_of_patient_id,
        "name": patient.name,
        "birth_date": patient.birth_date,
        "sex": patient.sex,
    }

"""From the rows of one snapshot to studies and patients; what breaks the contract is set aside by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from archsync.core.platform_contract import INSTANCE, PATIENT, STUDY
from archsync.core.study import Instance, Patient, Study
from archsync.errors import InvalidInput
from archsync.platformdb.connection import Cursor, Session
from archsync.platformdb.links import fetch_merges, find_survivor
from archsync.platformdb.queries import Queries
from archsync.platformdb.rows import parse_instance, parse_patient, parse_study, raise_twice


@dataclass(frozen=True, slots=True)
class StudyBatch:
    """Studies as one snapshot shows them; ``rejected`` broke the contract, ``missing`` are no longer there."""

    studies: tuple[Study, ...]
    rejected: Mapping[str, InvalidInput] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


Value = TypeVar("Value")


class Found(dict[str, Value], Generic[Value]):
    """What was found, by the key that was asked for; a key the platform does not have is absent.

    ``rejected`` says of which keys the rows break the contract, and how.
    """

    def __init__(self, values: Mapping[str, Value], rejected: Mapping[str, InvalidInput] | None = None) -> None:
        super().__init__(values)
        self.rejected: Mapping[str, InvalidInput] = rejected or {}


def read_batch(session: Session, queries: Queries, keys: tuple[str, ...]) -> StudyBatch:
    """Read studies in one snapshot; a study that breaks the contract is rejected by itself."""
    with session.transaction() as cursor:
        cursor.execute(*queries.studies(cursor, keys))
        study_rows = cursor.fetchall()
        cursor.execute(*queries.instances(cursor, keys))
        instance_rows = cursor.fetchall()
        rejected: dict[str, InvalidInput] = {}
        studies: dict[str, Study] = {}
        for row in study_rows:
            key = row[0]
            try:
                if key in studies:
                    raise_twice(STUDY, key)
                studies[key] = parse_study(row)
            except InvalidInput as exc:
                rejected.setdefault(key, exc)
        _give_to_survivors(cursor, queries, studies, rejected)
    instances: dict[str, dict[str, Instance]] = {key: {} for key in studies}
    for row in instance_rows:
        key = row[1]
        try:
            instance = parse_instance(row)
            if instance.instance_key in instances.get(key, {}):
                raise_twice(INSTANCE, instance.instance_key)
            instances.setdefault(key, {})[instance.instance_key] = instance
        except InvalidInput as exc:
            rejected.setdefault(key, exc)
    found = {row[0] for row in study_rows}
    return StudyBatch(
        tuple(
            replace(study, instances=tuple(instances[key].values()))
            for key, study in studies.items()
            if key not in rejected
        ),
        {key: problem for key, problem in rejected.items() if key in found},
        tuple(key for key in keys if key not in found),
    )


def read_patients(cursor: Cursor, queries: Queries, keys: Iterable[str]) -> Found[Patient]:
    """Read patients as their own rows are; a row that breaks the contract is rejected by itself."""
    cursor.execute(*queries.patients(cursor, tuple(keys)))
    patients: dict[str, Patient] = {}
    rejected: dict[str, InvalidInput] = {}
    for row in cursor.fetchall():
        key = row[0]
        try:
            if key in patients:
                raise_twice(PATIENT, key)
            patients[key] = parse_patient(row)
        except InvalidInput as exc:
            rejected.setdefault(key, exc)
    return Found({key: patient for key, patient in patients.items() if key not in rejected}, rejected)


def _give_to_survivors(
    cursor: Cursor, queries: Queries, studies: dict[str, Study], rejected: dict[str, InvalidInput]
) -> None:
    """Where a study's patient was merged into another, put the patient at the end of the chain in their place."""
    merged = {
        study.patient.patient_key for study in studies.values() if study.patient.merged_into_patient_key is not None
    }
    if not merged:
        return
    survivors = find_survivors(merged, fetch_merges(cursor, queries, merged))
    patients = read_patients(cursor, queries, set(survivors.values()))
    for key, study in studies.items():
        patient_key = study.patient.patient_key
        if patient_key not in merged:
            continue
        survivor_key = survivors.get(patient_key)
        problem = survivors.rejected.get(patient_key) or patients.rejected.get(survivor_key or "")
        if problem is not None:
            rejected.setdefault(key, problem)
        elif survivor_key is not None:
            studies[key] = replace(study, patient=patients[survivor_key])


def find_survivors(patient_keys: Iterable[str], merges: Mapping[str, str | None]) -> Found[str]:
    """Who stands at the end of each patient's chain of merges; those that go round in a circle are rejected."""
    survivors: dict[str, str] = {}
    rejected: dict[str, InvalidInput] = {}
    for key in patient_keys:
        if key in merges:
            try:
                survivors[key] = find_survivor(key, merges)
            except InvalidInput as exc:
                rejected[key] = exc
    return Found(survivors, rejected)

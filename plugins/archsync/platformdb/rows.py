"""Rows of text from the platform's views → values of :mod:`archsync.core.study`, or what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archsync.core.platform_contract import FACILITY, INSTANCE, PATIENT, STUDY, View
from archsync.core.study import Facility, Instance, Patient, Priority, RemovalReason, Study
from archsync.errors import InvalidInput

TextRow = Sequence[str | None]


def parse_facility(row: TextRow) -> Facility:
    """Read a row of the facility view."""
    return Facility(**_parse(FACILITY, row))


def parse_instance(row: TextRow) -> Instance:
    """Read a row of the instance view."""
    values = list(row)
    location = _INSTANCE_COLUMNS.index("location")
    if values[location] is None and values[_INSTANCE_COLUMNS.index("removed_at")] is not None:
        values[location] = ""  # the file of a removed instance may be gone
    parsed = _parse(INSTANCE, values)
    if parsed["removed_at"] is not None:
        parsed["removal_reason"] = RemovalReason(parsed["removal_reason"] or RemovalReason.UNSPECIFIED)
    elif parsed["removal_reason"] is not None:
        raise _invalid(INSTANCE, row[0], "removal_reason", "is set, but removed_at is null")
    return Instance(**parsed)


def parse_patient(row: TextRow) -> Patient:
    """Read a row of the patient view."""
    return Patient(**_parse(PATIENT, row))


def parse_study(row: TextRow) -> Study:
    """Read a row of the study view followed by its patient's and its facility's columns; without instances."""
    study_row = row[: len(STUDY.columns)]
    patient_row = row[len(STUDY.columns) : len(STUDY.columns) + len(PATIENT.columns)]
    facility_row = row[len(STUDY.columns) + len(PATIENT.columns) :]
    parsed = _parse(STUDY, study_row)
    if patient_row[0] is None:
        raise _invalid(STUDY, study_row[0], "patient_key", "names a patient the patient view does not have")
    if facility_row[0] is None:
        raise _invalid(STUDY, study_row[0], "facility_id", "names a facility the facility view does not have")
    del parsed["patient_key"], parsed["facility_id"]
    parsed["priority"] = Priority[parsed["priority"]]
    return Study(**parsed, patient=parse_patient(patient_row), facility=parse_facility(facility_row))


def raise_twice(view: View, key: str) -> None:
    """Refuse a key that a view holds more than once (a join that multiplies rows, mostly)."""
    raise _invalid(view, key, view.key, "appears in more than one row")


_INSTANCE_COLUMNS = [column.name for column in INSTANCE.columns]


def _parse(view: View, row: TextRow) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for column, text in zip(view.columns, row, strict=True):
        try:
            values[column.name] = column.parse(text)
        except ValueError as exc:
            raise _invalid(view, row[0], column.name, str(exc)) from None
    return values


def _invalid(view: View, key: str | None, column: str, problem: str) -> InvalidInput:
    return InvalidInput(
        f"platform view {view.name}, {view.key} {key}: {column} {problem}",
        code="platform-row",
        next_step="Correct the row, or the view's mapping, on the platform; `archsync platform check` finds them all.",
    )

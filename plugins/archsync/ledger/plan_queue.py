"""The planner's state: up to where the platform was read, and which studies to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.errors import ArchsyncError
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("planning")


@dataclass(frozen=True, slots=True)
class StudyProblem:
    """A study that can't be planned, and why."""

    study_key: str
    code: str
    message: str
    at: datetime


def watermark(ledger: Ledger) -> str | None:
    """Up to where the platform was read; None: not at all."""
    row = ledger.fetch_one(SQL["watermark"])
    return row["watermark"] if row else None


def read_position(ledger: Ledger) -> tuple[str | None, int]:
    """The watermark, and how often it was reset so far: hand that back to :func:`advance`."""
    row = ledger.fetch_one(SQL["watermark"])
    return (row["watermark"], row["resets"]) if row else (None, 0)


def advance(ledger: Ledger, new_watermark: str, study_keys: Sequence[str], *, resets: int | None = None) -> None:
    """Queue the studies that changed and move the watermark past them, both or neither.

    With ``resets`` the watermark stays where it is if it was reset since :func:`read_position` said so.
    """
    with ledger.transaction():
        if study_keys:
            ledger.execute(SQL["queue_studies"], {"study_keys": list(study_keys)})
        ledger.execute(SQL["set_watermark"], {"watermark": new_watermark, "resets": resets})


def reset_watermark(ledger: Ledger) -> None:
    """Have the whole platform read again."""
    ledger.execute(SQL["reset_watermark"])


def queue(ledger: Ledger, study_keys: Sequence[str]) -> None:
    """Have studies looked at again."""
    ledger.execute(SQL["queue_studies"], {"study_keys": list(study_keys)})


def queue_patients(ledger: Ledger, patient_keys: Sequence[str]) -> None:
    """Have all studies looked at again that were filed under some patients."""
    ledger.execute(SQL["queue_patients"], {"patient_keys": list(patient_keys)})


def has_patients(ledger: Ledger, patient_keys: Sequence[str]) -> bool:
    """Tell whether a study that was filed under one of these patients is still to be looked at."""
    row = ledger.fetch_one(SQL["has_patients"], {"patient_keys": list(patient_keys)})
    return row is not None and bool(row["found"])


def take(ledger: Ledger, limit: int) -> list[str]:
    """Take studies to plan; call inside the transaction that writes their jobs."""
    return [row["study_key"] for row in ledger.fetch_all(SQL["take_queued"], {"limit": limit})]


def take_these(ledger: Ledger, study_keys: Sequence[str]) -> None:
    """Take studies to plan, queued or not; whoever wants to plan one of them too waits for the transaction."""
    queue(ledger, study_keys)
    ledger.execute(SQL["take_these"], {"study_keys": list(study_keys)})


def sent_as(ledger: Ledger, study_instance_uid: str) -> list[str]:
    """The keys of the studies that ever went out under a Study Instance UID."""
    rows = ledger.fetch_all(SQL["sent_as"], {"study_instance_uid": study_instance_uid})
    return [row["study_key"] for row in rows]


def record_problem(ledger: Ledger, study_key: str, error: ArchsyncError) -> None:
    """Show a study that can't be planned, with its reason."""
    ledger.execute(SQL["record_problem"], {"study_key": study_key, "code": error.code, "message": error.message})


def clear_problems(ledger: Ledger, study_keys: Sequence[str]) -> None:
    """These studies could be read."""
    ledger.execute(SQL["clear_problems"], {"study_keys": list(study_keys)})


def problems(ledger: Ledger, *, limit: int = 100) -> list[StudyProblem]:
    """Studies that can't be planned, newest first."""
    return [StudyProblem(**row) for row in ledger.fetch_all(SQL["problems"], {"limit": limit})]

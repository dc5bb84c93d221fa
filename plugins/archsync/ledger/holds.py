"""Studies that an administrator holds back: nothing of them is sent anywhere until they are released."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from archsync.core.job import FAR_FUTURE
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("holds")


@dataclass(frozen=True, slots=True)
class StudyHold:
    """A hold: who holds which study back, since when, and why."""

    study_key: str
    study_instance_uid: str
    held_by: str
    reason: str
    held_at: datetime


def add(ledger: Ledger, *, study_key: str, study_instance_uid: str, held_by: str, reason: str) -> bool:
    """Hold a study back; False: it is already, and that hold stays as it is."""
    wanted = {"study_key": study_key, "study_instance_uid": study_instance_uid, "held_by": held_by, "reason": reason}
    return ledger.execute(SQL["add"], wanted) == 1


def remove(ledger: Ledger, study_key: str) -> bool:
    """Release a study; False: nobody held it."""
    return ledger.execute(SQL["remove"], {"study_key": study_key}) == 1


def get(ledger: Ledger, study_key: str) -> StudyHold | None:
    """The hold of one study; None: nobody holds it back here."""
    row = ledger.fetch_one(SQL["get"], {"study_key": study_key})
    return StudyHold(**row) if row else None


def of_study(ledger: Ledger, study_instance_uid: str) -> list[StudyHold]:
    """The holds on studies with a Study Instance UID."""
    return [StudyHold(**row) for row in ledger.fetch_all(SQL["by_study"], {"study_instance_uid": study_instance_uid})]


def page(ledger: Ledger, *, after: tuple[datetime, str] | None = None, limit: int) -> list[StudyHold]:
    """So many holds, newest first; ``after``: when the last one of the page before was made, and its study's key."""
    held_at, study_key = after or (FAR_FUTURE, "")
    wanted = {"held_at": held_at, "study_key": study_key, "limit": limit}
    return [StudyHold(**row) for row in ledger.fetch_all(SQL["page"], wanted)]


def listing(ledger: Ledger) -> list[StudyHold]:
    """All holds, newest first."""
    return [StudyHold(**row) for row in ledger.fetch_all(SQL["listing"])]


def held_back(ledger: Ledger, study_keys: Collection[str]) -> set[str]:
    """Which of some studies are held back."""
    rows = ledger.fetch_all(SQL["held_back"], {"study_keys": list(study_keys)})
    return {row["study_key"] for row in rows}

"""What each archive provably holds, instance by instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from archsync.core.planning import HeldInstance
from archsync.core.study import Instance, Study
from archsync.core.transfer import StoreOutcome
from archsync.ledger.database import Ledger
from archsync.ledger.queries import load

SQL = load("holdings")


@dataclass(frozen=True, slots=True)
class HeldStudy:
    """Totals of one study at one destination."""

    study_instance_uid: str
    study_key: str
    series: int
    instances: int
    verified: int
    rejected: int
    last_stored_at: datetime


@dataclass(frozen=True, slots=True)
class HeldInstanceDetail:
    """One instance at one destination, as that archive knows it."""

    series_instance_uid: str
    sop_instance_uid: str
    content_version: int
    store_status: int
    stored_at: datetime
    verified_at: datetime | None
    rejected_by: int | None


class StoredRecorder:
    """Records what an archive acknowledged of one study; remembers the series rows it made."""

    def __init__(self, ledger: Ledger, destination_id: int, study: Study) -> None:
        self._ledger = ledger
        self._destination_id = destination_id
        self._study = study
        self._instances: dict[str, Instance] = {i.instance_key: i for i in study.instances}
        self._series: dict[str, int] = {}

    def record(self, outcomes: Sequence[StoreOutcome]) -> None:
        """Record stored instances in one statement; call inside the transaction that counts them."""
        instances = [self._instances[o.instance.instance_key] for o in outcomes]
        self._ledger.execute(
            SQL["record_stored"],
            {
                "destination_id": self._destination_id,
                "content_versions": [i.content_version for i in instances],
                "held_series_ids": [self._series_id(i.series_instance_uid) for i in instances],
                "store_statuses": [o.status or 0 for o in outcomes],
                "instance_keys": [i.instance_key for i in instances],
                "sop_instance_uids": [i.sop_instance_uid for i in instances],
            },
        )

    def _series_id(self, series_instance_uid: str) -> int:
        if series_instance_uid not in self._series:
            row = self._ledger.fetch_one(
                SQL["upsert_series"],
                {
                    "destination_id": self._destination_id,
                    "study_key": self._study.study_key,
                    "patient_key": self._study.patient.patient_key,
                    "study_instance_uid": self._study.study_instance_uid,
                    "series_instance_uid": series_instance_uid,
                    "patient_id": self._study.patient.patient_id,
                    "issuer_of_patient_id": self._study.patient.issuer_of_patient_id,
                },
            )
            assert row is not None, "insert … returning gives a row"
            self._series[series_instance_uid] = row["held_series_id"]
        return self._series[series_instance_uid]


def mark_verified(ledger: Ledger, destination_id: int, instance_keys: Sequence[str]) -> None:
    """Record that the archive itself listed these instances."""
    ledger.execute(SQL["mark_verified"], {"destination_id": destination_id, "instance_keys": list(instance_keys)})


def forget(ledger: Ledger, destination_id: int, instance_keys: Sequence[str]) -> None:
    """The archive does not list these after all: the ledger must not claim them."""
    ledger.execute(SQL["forget"], {"destination_id": destination_id, "instance_keys": list(instance_keys)})


def set_archived(ledger: Ledger, destination_id: int, study_key: str) -> bool:
    """Record that a study was wholly archived; False: it was before, and nothing changes."""
    return ledger.execute(SQL["set_archived"], {"destination_id": destination_id, "study_key": study_key}) == 1


def of_studies(ledger: Ledger, destination_id: int, study_keys: Sequence[str]) -> dict[str, dict[str, HeldInstance]]:
    """What a destination holds of some studies: study key → instance key → held instance."""
    found: dict[str, dict[str, HeldInstance]] = {}
    for row in ledger.fetch_all(SQL["of_studies"], {"destination_id": destination_id, "study_keys": list(study_keys)}):
        study_key = row.pop("study_key")
        found.setdefault(study_key, {})[row["instance_key"]] = HeldInstance(**row)
    return found


def archived_studies(ledger: Ledger, destination_id: int, study_keys: Sequence[str]) -> set[str]:
    """Which of some studies were wholly archived at a destination once."""
    rows = ledger.fetch_all(SQL["archived_studies"], {"destination_id": destination_id, "study_keys": list(study_keys)})
    return {row["study_key"] for row in rows}


def listing(
    ledger: Ledger, destination_id: int, *, study_instance_uid: str | None = None, limit: int = 100
) -> list[HeldStudy]:
    """Studies that a destination holds, latest stored first."""
    rows = ledger.fetch_all(
        SQL["listing"],
        {"destination_id": destination_id, "study_instance_uid": study_instance_uid, "limit": limit},
    )
    return [HeldStudy(**row) for row in rows]


def instances_of_study(ledger: Ledger, destination_id: int, study_instance_uid: str) -> list[HeldInstanceDetail]:
    """What a destination holds of one study."""
    rows = ledger.fetch_all(
        SQL["instances_of_study"], {"destination_id": destination_id, "study_instance_uid": study_instance_uid}
    )
    return [HeldInstanceDetail(**row) for row in rows]


def holds_anything(ledger: Ledger, destination_id: int) -> bool:
    """Tell whether a destination holds at least one instance."""
    row = ledger.fetch_one(SQL["holds_anything"], {"destination_id": destination_id})
    return bool(row and row["holds"])

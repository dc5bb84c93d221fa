"""Whether archives hold exactly the truth: what each one shows by C-FIND, compared with what the platform says.

The ledger only tells where to look: every series in which the archive ever got anything, so that what should have gone
would be found there too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from archsync.core.destination import Destination
from archsync.core.identity import HeldPatient
from archsync.core.planning import is_due
from archsync.core.study import Patient
from archsync.core.transfer import Endpoint
from archsync.ledger import destinations, holdings
from archsync.ledger.database import Ledger
from archsync.net.dicom.find import ShownStudy, find_instances, find_studies
from archsync.platformdb.reader import Platform
from archsync.services import planner
from archsync.services.planner import PlannedStudy

_HEADER = ("DESTINATION", "STUDIES", "IMAGES SHOWN", "MISSING", "TOO MANY", "WRONG PATIENT")


@dataclass(slots=True)
class Proof:
    """What one archive shows beside what it should; UIDs of what differs."""

    destination: str
    studies: int = 0
    shown: int = 0
    missing: list[str] = field(default_factory=list)
    too_many: list[str] = field(default_factory=list)
    wrong_patient: list[str] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """True when the archive shows exactly what the platform says."""
        return not (self.missing or self.too_many or self.wrong_patient)


def prove(platform: Platform, ledger: Ledger) -> list[Proof]:
    """Ask every archive what it shows."""
    keys = [key for batch in platform.walk_study_keys() for key in batch]
    planned = planner.dry_run(platform, ledger, keys, now=datetime.now(UTC))
    return [
        _prove(ledger, destination, [p for p in planned if p.destination.name == destination.name])
        for destination in destinations.all_destinations(ledger)
    ]


def _prove(ledger: Ledger, destination: Destination, planned: Sequence[PlannedStudy]) -> Proof:
    assert destination.destination_id is not None, "read from the ledger"
    proof = Proof(destination.name)
    wanted: set[str] = set()
    patients: dict[str, Patient] = {}
    for item in planned:
        if not (destination.covers(item.study.facility) and is_due(item.desired, item.held, destination)):
            continue
        placed = [item.desired.placement_of(i) for i in item.desired.instances]
        wanted |= {p.uids.sop_instance_uid for p in placed if p is not None}
        proof.missing += [i.sop_instance_uid for i, p in zip(item.desired.instances, placed, strict=True) if p is None]
        patients |= {p.uids.study_instance_uid: item.study.patient for p in placed if p is not None}
        proof.studies += bool(placed)
    shown = _shown(Endpoint.of(destination), holdings.series(ledger, destination.destination_id))
    proof.shown = len(shown)
    proof.missing += sorted(wanted - shown)
    proof.too_many += sorted(shown - wanted)
    for uid, study in find_studies(Endpoint.of(destination), patients).items():
        if not _is_same(study, HeldPatient.of(patients[uid])):
            proof.wrong_patient.append(uid)
    return proof


def _shown(endpoint: Endpoint, series: Iterable[tuple[str, str]]) -> set[str]:
    by_study: dict[str, list[str]] = defaultdict(list)
    for study_uid, series_uid in series:
        by_study[study_uid].append(series_uid)
    shown: set[str] = set()
    for study_uid, series_uids in by_study.items():
        shown |= find_instances(endpoint, study_uid, series_uids)
    return shown


def _is_same(shown: ShownStudy, patient: HeldPatient) -> bool:
    birth_date = patient.birth_date.strftime("%Y%m%d") if patient.birth_date else ""
    there = HeldPatient("", shown.patient_id, shown.issuer_of_patient_id or None, shown.patient_name)
    return (
        there.identifier == patient.identifier
        and there.demographics[0] == patient.demographics[0]
        and (not birth_date or shown.birth_date == birth_date)
        and (not patient.sex or shown.sex == patient.sex)
    )


def format_proof(proofs: Iterable[Proof]) -> str:
    """The table at the end of the story: a line per archive, then what differs."""
    entries = list(proofs)
    rows = [_HEADER] + [
        (p.destination, str(p.studies), str(p.shown), *(str(len(x)) for x in (p.missing, p.too_many, p.wrong_patient)))
        for p in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for p in entries:
        lines += [f"{p.destination}: instance {uid} is missing" for uid in p.missing[:10]]
        lines += [f"{p.destination}: instance {uid} should not be shown" for uid in p.too_many[:10]]
        lines += [
            f"{p.destination}: study {uid} shows another patient than the platform" for uid in p.wrong_patient[:10]
        ]
    return "\n".join(lines)

"""Placements: which UIDs the content of an instance goes out with, and when it needs new ones.

A *placement* is one content of an instance in one place: its patient, study and series. A SOP Instance UID names one
placement for ever, at every archive. So when the platform moves an instance, changes it, or shows one again that a
rejection note withdrew, it needs a new placement with new UIDs (``core/uid_map.py`` has the rules for them); as long as
nothing of this happens, it has the UIDs that the platform gives.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from archsync.core.study import Instance, Study
from archsync.core.uid_map import InstanceUids, Placement, series_uid_in, study_uid_under

Survivors = Mapping[str, str]
"""Patient key → the key it was merged into, at the end of the chain; keys that are not in it stand for themselves."""


class Decision(StrEnum):
    """What becomes of a key image or presentation state that points at withdrawn instances (IHE IOCM says nothing)."""

    REPLACE = "replace"
    """Some of what it points at was replaced: a copy that points at the replacements takes its place."""
    WITHDRAW = "withdraw"
    """All that it points at was withdrawn: it goes with it."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement as the ledger knows it. ``uids`` are those sent; ``source_*`` those the platform had then.

    ``is_burnt``: a rejection note withdrew it at an archive, or is about to.
    """

    placement_id: int
    placement_no: int
    instance_key: str
    content_version: int
    study_key: str
    patient_key: str
    uids: InstanceUids
    source_series_instance_uid: str
    source_sop_instance_uid: str
    sop_class_uid: str
    placed_at: datetime
    is_burnt: bool = False
    decision: Decision | None = None

    @property
    def is_minted(self) -> bool:
        """True when its SOP Instance UID is ours, not the platform's."""
        return self.uids.sop_instance_uid != self.source_sop_instance_uid


def root(patient_key: str, survivors: Survivors) -> str:
    """The patient that a key stands for after merges."""
    return survivors.get(patient_key, patient_key)


def is_in_place(
    placed: Placed, instance: Instance, study: Study, survivors: Survivors, *, study_uid: str | None = None
) -> bool:
    """Tell whether a placement still says what the platform says of this instance, and its UID may be used.

    ``study_uid`` is the UID that the study has at archives; None: any that it may have.
    """
    return (
        not placed.is_burnt
        and placed.decision is not Decision.REPLACE
        and placed.study_key == study.study_key
        and placed.content_version == instance.content_version
        and placed.source_series_instance_uid == instance.series_instance_uid
        and placed.source_sop_instance_uid == instance.sop_instance_uid
        and placed.sop_class_uid == instance.sop_class_uid
        and root(placed.patient_key, survivors) == root(study.patient.patient_key, survivors)
        and placed.uids.study_instance_uid
        in (_study_uids(study, placed.patient_key) if study_uid is None else (study_uid,))
    )


def first_filed(placements: Iterable[Placed]) -> dict[str, str]:
    """The Study Instance UIDs of placements with the patient under whom each went out first, oldest first."""
    filed: dict[str, str] = {}
    for placed in sorted(placements, key=lambda p: p.placement_id):
        filed.setdefault(placed.uids.study_instance_uid, placed.patient_key)
    return filed


def settled_study_uid(study: Study, filed: Mapping[str, str], survivors: Survivors) -> str | None:
    """The UID that a study has at archives under its patient: the first it went out with; None: it never did.

    It went to another patient and came back, or the two were merged: then several would do, and it is to be in one
    piece. ``filed`` as :func:`first_filed` gives it.
    """
    patient_key = root(study.patient.patient_key, survivors)
    return next(
        (uid for uid, key in filed.items() if root(key, survivors) == patient_key and uid in _study_uids(study, key)),
        None,
    )


def _study_uids(study: Study, patient_key: str) -> tuple[str, str]:
    own = study.study_instance_uid
    # The second is its UID when it was first sent under another patient, whoever that was.
    return own, study_uid_under(own, patient_key=patient_key, bound_patient_key="")


def is_wanted(instance: Instance, latest: Placed | None) -> bool:
    """Tell whether archives are to hold an instance: the platform shows it, and it was not withdrawn with others."""
    return instance.removed_at is None and not (
        latest is not None
        and latest.decision is Decision.WITHDRAW
        and latest.content_version == instance.content_version
        and latest.study_key == instance.study_key
    )


@dataclass(frozen=True, slots=True)
class Bound:
    """What UIDs were first sent as: study UID → patient key, series UID → study UID; and SOP UIDs already in use."""

    patient_of_study: Mapping[str, str]
    study_of_series: Mapping[str, str]
    used_sop_uids: Collection[str]


@dataclass(frozen=True, slots=True)
class NewPlacement:
    """A placement to write: the instance, its number, and the UIDs it goes out with."""

    instance: Instance
    placement_no: int
    uids: InstanceUids


def place(
    study: Study,
    instances: Iterable[Instance],
    latest: Mapping[str, Placed],
    bound: Bound,
    survivors: Survivors,
    *,
    study_uid: str | None = None,
) -> list[NewPlacement]:
    """Give instances that need one a new placement. ``latest``: the last placement of each, by instance key.

    ``study_uid`` is the UID that the study has at archives already.
    """
    patient_key = root(study.patient.patient_key, survivors)
    bound_patient = bound.patient_of_study.get(study.study_instance_uid)
    study_uid = study_uid or study_uid_under(
        study.study_instance_uid,
        patient_key=patient_key,
        bound_patient_key=None if bound_patient is None else root(bound_patient, survivors),
    )
    new: list[NewPlacement] = []
    given: set[str] = set()
    for instance in instances:
        last = latest.get(instance.instance_key)
        number = 1 if last is None else last.placement_no + 1
        series_uid = series_uid_in(
            instance.series_instance_uid,
            study_instance_uid=study_uid,
            bound_study_instance_uid=bound.study_of_series.get(instance.series_instance_uid),
        )
        sop_uid = instance.sop_instance_uid
        if sop_uid in bound.used_sop_uids or sop_uid in given:
            sop_uid = Placement(instance.instance_key, instance.content_version, number).sop_instance_uid
        given.add(sop_uid)
        new.append(NewPlacement(instance, number, InstanceUids(study_uid, series_uid, sop_uid)))
    return new

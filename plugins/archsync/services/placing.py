"""Gives instances the UIDs they go out with, and writes down that they are about to."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from archsync.core.comparison import Desired
from archsync.core.fitting import Fitting, Modification, map_uids
from archsync.core.identifiers import Look, Undecided, find_other_record, job_before_images
from archsync.core.identity import HeldPatient, known_as
from archsync.core.placing import Placed, first_filed, place, root
from archsync.core.study import Instance, Patient
from archsync.core.transfer import OutgoingInstance
from archsync.ledger import holdings, patients
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform
from archsync.services.comparison import Compared
from archsync.services.identifiers import reader

#: What Original Attributes name as the system that changed them (0400,0563).
MODIFYING_SYSTEM = "archsync"


class IdentifierInUse(Exception):
    """The patient's first images can't go out yet: the archive knows somebody else by their identifier.

    ``job_id``: the job that ends that; None: there is none yet, and ``patient_keys`` are to be planned.
    """

    def __init__(self, *, job_id: int | None = None, patient_keys: Sequence[str] = ()) -> None:
        super().__init__(job_id)
        self.job_id = job_id
        self.patient_keys = patient_keys


class MovedMeanwhile(Exception):
    """Another job placed or offered some of the instances since they were compared: compare again."""


def offer(
    ledger: Ledger,
    platform: Platform,
    compared: Compared,
    missing: Sequence[Instance],
    *,
    looked_before: bool,
) -> tuple[dict[str, Placed], Patient]:
    """Fix the placement of instances that are about to be sent, and the patient they go out with.

    From now on the archive may hold them, and knows the patient so. In one transaction, alone: two who send the same
    instance at the same time give it the same UIDs. Gives the placements by instance key.

    Raises:
        MovedMeanwhile: what was compared is no longer so.
        IdentifierInUse: come again. ``looked_before``: who has it was planned since the last time.
        InvalidInput: ``identifier-taken`` or ``identifier-retired``: it is somebody else's at the archive for good.
    """
    desired, destination = compared.desired, compared.destination
    destination_id = destination.destination_id
    assert destination_id is not None, "read from the ledger"
    keys = {i.instance_key for i in missing}
    look = reader(ledger, platform, destination, looked_before=looked_before)
    with ledger.transaction():
        holdings.lock_placing(ledger)
        found = _placements(ledger, desired, keys)
        _check_unmoved(ledger, destination_id, compared, [p for p in found if p.instance_key in keys])
        current = _as_placed(desired, keys, found)
        unplaced = [i for i in missing if current.placement_of(i) is None]
        if unplaced:
            _place(ledger, platform, current, unplaced)
            current = _as_placed(desired, keys, _placements(ledger, desired, keys))
        placed = {i.instance_key: current.latest[i.instance_key] for i in missing}
        holdings.offer(ledger, destination_id, [p.placement_id for p in placed.values()])
        (study_uid,) = {p.uids.study_instance_uid for p in placed.values()}
        known = _as_known(ledger, destination_id, study_uid, current, look)
    return placed, known.as_patient(desired.study.patient)


def _placements(ledger: Ledger, desired: Desired, instance_keys: Collection[str]) -> list[Placed]:
    return holdings.placements(ledger, study_keys=[desired.study.study_key], instance_keys=instance_keys)


def _check_unmoved(ledger: Ledger, destination_id: int, compared: Compared, placed: Sequence[Placed]) -> None:
    """See that no other job placed the instances anew, say in another study, or offered them here as they were."""
    latest = {p.instance_key: p.placement_id for p in placed}
    known = compared.desired.latest
    held = holdings.held(ledger, [destination_id], {p.placement_id: p for p in placed})[destination_id]
    was_placed = any(key not in known or known[key].placement_id != latest[key] for key in latest)
    if was_placed or held.keys() - compared.held.instances.keys():
        raise MovedMeanwhile


def _as_placed(desired: Desired, instance_keys: Collection[str], found: Iterable[Placed]) -> Desired:
    """What is desired, with what there is of placements by now."""
    found = tuple(found)
    return Desired(
        desired.study,
        latest={p.instance_key: p for p in found if p.instance_key in instance_keys},
        survivors=desired.survivors,
        filed=first_filed(p for p in found if p.study_key == desired.study.study_key),
    )


def _place(ledger: Ledger, platform: Platform, desired: Desired, unplaced: Sequence[Instance]) -> None:
    study = desired.study
    bound = holdings.bound(
        ledger,
        study_uids=[study.study_instance_uid],
        series_uids=sorted({i.series_instance_uid for i in unplaced}),
        sop_uids=[i.sop_instance_uid for i in unplaced],
    )
    filed = set(bound.patient_of_study.values()) - {study.patient.patient_key}
    survivors = {**desired.survivors, **(platform.resolve_survivors(filed) if filed else {})}
    new = place(study, unplaced, desired.latest, bound, survivors, study_uid=desired.study_uid)
    holdings.insert_placements(ledger, study, new)


def _as_known(ledger: Ledger, destination_id: int, study_uid: str, desired: Desired, look: Look) -> HeldPatient:
    """The study's patient as the archive knows them, or is about to: what its images go out with.

    An archive that has not acknowledged a new identifier yet gets images under the old one, so that nothing overtakes
    the message which changes it; and a study is one patient's there. One that does not know the patient yet gets to
    know them only by an identifier that is nobody else's.
    """
    filed = patients.filed_under(ledger, destination_id, study_uid)
    if filed is not None:
        return filed
    patient, survivors = desired.study.patient, desired.survivors
    keys = {patient.patient_key, root(patient.patient_key, survivors), *desired.filed.values()}
    known = known_as(patient.patient_key, patients.held(ledger, [destination_id], keys)[destination_id], survivors)
    if known is None:
        known = find_other_record(patient, look)
    if known is None:
        try:
            before = job_before_images(patient, look)
        except Undecided as undecided:
            raise IdentifierInUse(patient_keys=undecided.patient_keys) from None
        if before is not None:
            raise IdentifierInUse(job_id=before)
        known = HeldPatient.of(patient)
        patients.learn(ledger, destination_id, known)
    patients.file(ledger, destination_id, study_uid, known.patient_key)
    return known


def outgoing(
    desired: Desired, missing: Sequence[Instance], placed: dict[str, Placed], patient: Patient
) -> list[OutgoingInstance]:
    """What to send, and what files are to be fitted to where they say something else."""
    uid_map = map_uids(desired, placed)
    fittings: dict[object, Fitting] = {}
    found = []
    for instance in missing:
        placement = placed[instance.instance_key]
        # By its own moment, or the same instance would come out differently with others.
        fitting = fittings.get(placement.placed_at)
        if fitting is None:
            fitting = fittings[placement.placed_at] = Fitting(
                uid_map=uid_map,
                study=desired.study,
                patient=patient,
                modification=Modification(modified_at=placement.placed_at, modifying_system=MODIFYING_SYSTEM),
            )
        found.append(
            OutgoingInstance(
                instance_key=instance.instance_key,
                sop_class_uid=instance.sop_class_uid,
                sop_instance_uid=placement.uids.sop_instance_uid,
                transfer_syntax_uid=instance.transfer_syntax_uid,
                location=instance.location,
                size_bytes=instance.size_bytes,
                study_instance_uid=placement.uids.study_instance_uid,
                series_instance_uid=placement.uids.series_instance_uid,
                source_sop_instance_uid=instance.sop_instance_uid,
                fitting=fitting,
            )
        )
    return found

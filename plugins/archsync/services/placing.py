"""Gives instances the UIDs they go out with, and writes down that they are about to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from archsync.core.comparison import Desired, Held
from archsync.core.fitting import Fitting, Modification
from archsync.core.identity import HeldPatient
from archsync.core.placing import Placed, place, root
from archsync.core.study import Instance, Patient, Study
from archsync.core.transfer import OutgoingInstance
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.ledger import holdings, patients
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform

#: What Original Attributes name as the system that changed them (0400,0563).
MODIFYING_SYSTEM = "archsync"


def offer(
    ledger: Ledger, platform: Platform, desired: Desired, held: Held, destination_id: int, missing: Sequence[Instance]
) -> dict[str, Placed]:
    """Fix the placement of instances that are about to be sent, by instance key; the archive may hold them from now on.

    In one transaction, alone: two who send the same instance at the same time give it the same UIDs. The patient is
    remembered as the archive gets to know them.
    """
    keys = [i.instance_key for i in missing]
    with ledger.transaction():
        holdings.lock_placing(ledger)
        latest = _latest(ledger, keys)
        current = Desired(desired.study, latest=latest, survivors=desired.survivors)
        unplaced = [i for i in missing if current.placement_of(i) is None]
        if unplaced:
            _place(ledger, platform, desired, unplaced, latest)
            latest = _latest(ledger, keys)
        placed = {i.instance_key: latest[i.instance_key] for i in missing}
        holdings.offer(ledger, destination_id, [p.placement_id for p in placed.values()])
        patients.learn(ledger, destination_id, HeldPatient.of(patient_as_known(desired, held)))
    return placed


def _latest(ledger: Ledger, instance_keys: Iterable[str]) -> dict[str, Placed]:
    found = holdings.placements(ledger, study_keys=[], instance_keys=list(instance_keys))
    return {p.instance_key: p for p in found}


def _place(
    ledger: Ledger, platform: Platform, desired: Desired, unplaced: Sequence[Instance], latest: dict[str, Placed]
) -> None:
    study = desired.study
    bound = holdings.bound(
        ledger,
        study_uids=[study.study_instance_uid],
        series_uids=sorted({i.series_instance_uid for i in unplaced}),
        sop_uids=[i.sop_instance_uid for i in unplaced],
    )
    filed = set(bound.patient_of_study.values()) - {study.patient.patient_key}
    survivors = {**desired.survivors, **(platform.resolve_survivors(filed) if filed else {})}
    holdings.insert_placements(ledger, study, place(study, unplaced, latest, bound, survivors))


def patient_as_known(desired: Desired, held: Held) -> Patient:
    """The study's patient as the archive knows them, or is going to: what its images go out with.

    An archive that has not acknowledged a new identifier yet gets images under the old one, so that nothing overtakes
    the message which changes it.
    """
    patient = desired.study.patient
    own = held.patients.get(patient.patient_key)
    if own is not None and own.merged_into is None:
        return own.as_patient(patient)
    for key, known in sorted(held.patients.items()):
        if known.merged_into is None and root(key, desired.survivors) == patient.patient_key:
            # Filed under somebody who gave way on the platform, and not yet there.
            return known.as_patient(patient)
    return patient


def outgoing(
    desired: Desired, held: Held, missing: Sequence[Instance], placed: dict[str, Placed]
) -> list[OutgoingInstance]:
    """What to send, and what files are to be fitted to where they say something else."""
    patient = patient_as_known(desired, held)
    uid_map = _uid_map(desired, placed)
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


def _uid_map(desired: Desired, placed: dict[str, Placed]) -> UidMap:
    """From the UIDs in the files to those at the archives, of the study's instances and of those that moved away."""
    rows: list[tuple[Study, Instance]] = [(desired.study, i) for i in desired.instances]
    rows += [(r.study, r.instance) for r in desired.related.values() if r.instance.removed_at is None]
    pairs = []
    for study, instance in rows:
        placement = placed.get(instance.instance_key) or desired.placement_of(instance, study)
        if placement is None:
            continue
        row = InstanceUids(study.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
        old = desired.origins.get(instance.instance_key, row)
        pairs.append((replace(old, sop_instance_uid=instance.sop_instance_uid), placement.uids))
    return UidMap.of(pairs)

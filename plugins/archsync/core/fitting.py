"""What an archive is to find in the instances it gets, where that is not what their files say.

Files keep what they said when they came; the platform's rows move on: names are corrected, studies split, patients
merged. An instance is *fitted* when its file's patient and UIDs are brought to what the archive is to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from archsync.core.comparison import Desired
from archsync.core.dependants import former_rows
from archsync.core.placing import Placed
from archsync.core.study import Instance, Patient, Study
from archsync.core.uid_map import InstanceUids, UidMap


@dataclass(frozen=True, slots=True)
class RequestAttributes:
    """The order that the target study was made for (PS3.3 Table 10-9)."""

    requested_procedure_id: str
    scheduled_procedure_step_id: str
    requested_procedure_description: str = ""
    scheduled_procedure_step_description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modification:
    """Who changed the attributes and when (PS3.3 C.12.1.1.9).

    ``modified_at`` is written into the copy: a stored moment, never the clock, or a resend differs from what was sent.
    """

    modified_at: datetime
    modifying_system: str
    source_of_previous_values: str = ""

    def __post_init__(self) -> None:
        if self.modified_at.tzinfo is None:
            raise ValueError("modified_at needs a time zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What files are fitted to; one serves all instances that go to one study of one archive.

    ``uid_map`` leads from the UIDs that stand in the files to those the archive is to have, also for the objects that
    the files refer to; instances that stay are in it as pairs of equal UIDs. ``patient`` is the patient as the archive
    is to know them, which may lag behind ``study.patient``. The same fitting gives the same bytes: whoever sends an
    instance again has to give what was given the first time.
    """

    uid_map: UidMap = field(repr=False)
    study: Study = field(repr=False)
    patient: Patient = field(repr=False)
    modification: Modification
    request: RequestAttributes | None = field(repr=False, default=None)


def map_uids(desired: Desired, placed: Mapping[str, Placed]) -> UidMap:
    """From the UIDs in files to those at archives: of a study's instances, of those that moved away, and of those that
    the platform replaced by rows of its own making. ``placed``: the placements just made, by instance key.
    """
    rows: list[tuple[Study, Instance]] = [(desired.study, i) for i in desired.instances]
    rows += [(r.study, r.instance) for r in desired.related.values() if r.instance.removed_at is None]
    pairs = []
    for study, instance in rows:
        placement = placed.get(instance.instance_key) or desired.placement_of(instance, study)
        if placement is not None:
            pairs.append((_uids_in_file(instance, study, desired), placement.uids))
    known = {old.sop_instance_uid for old, _ in pairs}
    former = []
    for old, now in former_rows(desired):
        placement = placed.get(now.instance.instance_key) or desired.placement_of(now.instance, now.study)
        if placement is not None and old.sop_instance_uid not in known:
            known.add(old.sop_instance_uid)
            former.append((old, placement.uids))
    return UidMap.of(pairs, former)


def _uids_in_file(instance: Instance, study: Study, desired: Desired) -> InstanceUids:
    row = InstanceUids(study.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid)
    return replace(desired.origins.get(instance.instance_key, row), sop_instance_uid=instance.sop_instance_uid)

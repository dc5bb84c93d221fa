"""Objects that point at withdrawn instances: key images, presentation states, segmentations, reports.

Neither DICOM nor IHE IOCM mends references, and nothing cascades at an archive. So for each object that points at what
is withdrawn it is decided here what becomes of it: it goes too, a copy that points at the replacements takes its place,
or it stays and somebody is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from archsync.core.comparison import Desired, Related
from archsync.core.placing import Decision
from archsync.core.study import Study
from archsync.core.uid_map import InstanceUids
from archsync.core.withdrawal import successors_of

_STORAGE = "1.2.840.10008.5.1.4.1.1."


class Dependence(StrEnum):
    """How an object depends on what it points at."""

    DERIVED = "derived"
    """It says nothing without it: key images, presentation states, segmentations, registrations, contours, CAD."""
    REPORT = "report"
    """A finding that somebody made and signed. It is never withdrawn or changed for what it points at."""


_DERIVED = frozenset(
    _STORAGE + number
    for number in (
        "30",  # Parametric Map
        "66.1", "66.2", "66.3", "66.4", "66.5", "66.6", "66.7",  # registrations, fiducials, segmentations, tracts
        "67",  # Real World Value Mapping
        "88.50", "88.65", "88.69",  # CAD of mammography, chest, colon
        "88.59",  # Key Object Selection
        "481.2", "481.3", "481.5", "481.8",  # RT Dose, Structure Set, Plan, Ion Plan
    )
)  # fmt: skip
_PRESENTATION_STATES = _STORAGE + "11."
_REPORTS = (_STORAGE + "88.", _STORAGE + "104.")  # Structured Reports; encapsulated documents


def dependence_of(sop_class_uid: str) -> Dependence | None:
    """How objects of a SOP class depend on others; None: they stand for themselves, as images do."""
    if sop_class_uid in _DERIVED or sop_class_uid.startswith(_PRESENTATION_STATES):
        return Dependence.DERIVED
    return Dependence.REPORT if sop_class_uid.startswith(_REPORTS) else None


def has_derived(study: Study) -> bool:
    """Tell whether a study shows anything whose references are to be kept right."""
    return any(dependence_of(i.sop_class_uid) is Dependence.DERIVED for i in study.present_instances)


def stand_in(instance_key: str, desired: Desired) -> Related | None:
    """What references to an instance are to lead to: the instance itself while the platform shows it, or what stands
    for it.

    None: nothing does, or nothing that references can be led to as they are: several rows, or one of another SOP class.
    """
    found = tuple(successors_of(instance_key, desired))
    own = next((row for row in found if row.instance.instance_key == instance_key), None)
    if own is not None or len(found) != 1:
        return own
    former, last = desired.find(instance_key), desired.latest.get(instance_key)
    sop_class_uid = former.instance.sop_class_uid if former is not None else last.sop_class_uid if last else None
    return found[0] if found[0].instance.sop_class_uid == sop_class_uid else None


def former_rows(desired: Desired) -> Iterator[tuple[InstanceUids, Related]]:
    """What files may still name though the platform made rows of its own to stand for it: the UIDs, and that row."""
    for key in desired.replacements:
        now, row = stand_in(key, desired), desired.find(key)
        if now is None or now.instance.instance_key == key:
            continue
        if key in desired.origins:
            yield desired.origins[key], now
        elif row is not None:
            i = row.instance
            yield InstanceUids(row.study.study_instance_uid, i.series_instance_uid, i.sop_instance_uid), now


class Target(StrEnum):
    """What became of an instance that an object points at, at one archive."""

    KEPT = "kept"
    REPLACED = "replaced"
    """It goes on in another placement, or a row of the platform's own making stands for it: a copy can point there."""
    WITHDRAWN = "withdrawn"
    """It is gone, and nothing took its place."""
    LOST = "lost"
    """Something took its place to which no copy of the object can be led: several rows, say, or none sent yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of an object. ``is_left_dangling``: the archive will show it pointing at something hidden."""

    decision: Decision | None = None
    is_left_dangling: bool = False


def judge(dependence: Dependence, targets: Collection[Target]) -> Verdict:
    """Decide about an object by all that it points at, of what the archive was given."""
    found = set(targets)
    if found <= {Target.KEPT}:
        return Verdict()
    if dependence is Dependence.REPORT:
        return Verdict(is_left_dangling=True)
    if Target.REPLACED in found:
        return Verdict(Decision.REPLACE, is_left_dangling=bool(found & {Target.WITHDRAWN, Target.LOST}))
    if found == {Target.WITHDRAWN}:
        return Verdict(Decision.WITHDRAW)
    return Verdict(is_left_dangling=True)

"""Objects that point at withdrawn instances: key images, presentation states, segmentations, reports.

Neither DICOM nor IHE IOCM mends references, and nothing cascades at an archive. So for each object that points at what
is withdrawn it is decided here what becomes of it: it goes too, a copy that points at the replacements takes its place,
or it stays and somebody is told.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from archsync.core.placing import Decision

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


class Target(StrEnum):
    """What became of an instance that an object points at, at one archive."""

    KEPT = "kept"
    REPLACED = "replaced"
    """Its row goes on in another placement: a copy of the object can point there."""
    WITHDRAWN = "withdrawn"
    """It is gone, and nothing took its place."""
    LOST = "lost"
    """Something took its place to which no copy of the object can be led: a row of the platform's own making."""


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

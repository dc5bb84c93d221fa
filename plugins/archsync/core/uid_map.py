"""The UIDs of replacement instances: which are new, what they are, and which old UID each takes the place of.

The rules, and where they come from:

- A corrected object gets a new SOP Instance UID, always (IHE RAD-74; PS3.3 C.12.1.1.1). A rejected UID is burnt.
- A Study Instance UID stays while its study stays with the patient it was first sent under. Sent under another patient,
  the study gets a new UID: an archive that holds rejected instances of it has it filed under the former patient.
- A Series Instance UID stays while the series stays in the study it was first sent in (a series lives in one study,
  PS3.3 A.1.2) and its own attributes (Modality, Laterality, Series Description, …) are as first sent.

New UIDs derive from keys of the platform, so the same placement gets the same UIDs in every attempt, at every
destination. Nothing here knows a file or an archive.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from archsync.core.uids import derive_uid
from archsync.errors import InvalidInput

_REGISTERED = "1.2.840.10008."
"""Root of the standard's own UIDs (PS3.6 annex A): SOP classes, transfer syntaxes; they name no instance."""


@dataclass(frozen=True, slots=True, order=True)
class InstanceUids:
    """The three UIDs that say which instance it is and where it lies."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str


# New UIDs


@dataclass(frozen=True, slots=True)
class Placement:
    """A content of an instance in a place: what a SOP Instance UID stands for.

    ``generation`` counts the places (patient, study, series) the instance has had, from 1; coming back to a former
    place counts again, for the UID it had there is burnt.
    """

    instance_key: str
    content_version: int
    generation: int

    def __post_init__(self) -> None:
        if not self.instance_key or self.content_version < 1 or self.generation < 1:
            raise ValueError(f"not a placement: {self}")

    @property
    def sop_instance_uid(self) -> str:
        """The SOP Instance UID of the replacement in this placement."""
        return derive_uid("replacement", self.instance_key, str(self.content_version), str(self.generation))


def study_uid_under(study_instance_uid: str, *, patient_key: str, bound_patient_key: str | None) -> str:
    """The Study Instance UID to send a study with, under a patient.

    ``bound_patient_key`` is the patient under whom this UID was first sent to any archive, None if it never was. A
    patient merge moves no study: follow it before asking, or every study of the patient gets a new UID.
    """
    if bound_patient_key is None or bound_patient_key == patient_key:
        return study_instance_uid
    return derive_uid("replacement-study", study_instance_uid, patient_key)


def series_uid_in(
    series_instance_uid: str,
    *,
    study_instance_uid: str,
    bound_study_instance_uid: str | None,
    attributes_version: int = 1,
) -> str:
    """The Series Instance UID to send instances of a series with, in a study (its UID as sent).

    ``bound_study_instance_uid`` is the study in which this UID was first sent, None if it never was.
    ``attributes_version`` counts the values that attributes of the series level have had, from 1: instances that
    differ in them can't share a series.
    """
    if attributes_version < 1:
        raise ValueError(f"versions count from 1, not {attributes_version}")
    if bound_study_instance_uid in (None, study_instance_uid) and attributes_version == 1:
        return series_instance_uid
    return derive_uid("replacement-series", series_instance_uid, study_instance_uid, str(attributes_version))


# Old to new


@dataclass(frozen=True, slots=True)
class UidMap:
    """Pairs of old and new UIDs of instances, 1:1.

    A pair of equal UIDs says that the instance stays as it is. Such pairs matter: they tell a series that moved as a
    whole, whose UID is simply replaced where only the series is named, from one that was split. Put every present
    instance of an affected study in. An instance that moved before any archive had it keeps its SOP Instance UID: its
    pair differs in study or series alone.

    ``former``: pairs of instances that are no more, and of what the platform itself made to stand for each; several may
    lead to one. They say where references go, and nothing of any instance that is sent.

    Raises:
        InvalidInput: ``uid-map-inconsistent``: two pairs share an old or a new UID, a new SOP Instance UID is an old
            one of another instance, a series would lie in two studies, or a UID of the standard is to be replaced.
    """

    pairs: tuple[tuple[InstanceUids, InstanceUids], ...] = ()
    former: tuple[tuple[InstanceUids, InstanceUids], ...] = ()
    _instances: dict[str, InstanceUids] = field(init=False, repr=False, compare=False)
    _series: dict[str, str] = field(init=False, repr=False, compare=False)
    _studies: dict[str, str] = field(init=False, repr=False, compare=False)
    _moved: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs, former = tuple(sorted(set(self.pairs))), tuple(sorted(set(self.former)))
        _check(pairs, former)
        object.__setattr__(self, "pairs", pairs)
        object.__setattr__(self, "former", former)
        both = pairs + former
        object.__setattr__(self, "_instances", {old.sop_instance_uid: new for old, new in both})
        series = ((old.series_instance_uid, new.series_instance_uid) for old, new in both)
        studies = ((old.study_instance_uid, new.study_instance_uid) for old, new in both)
        object.__setattr__(self, "_series", _unambiguous(series))
        object.__setattr__(self, "_studies", _unambiguous(studies))
        object.__setattr__(self, "_moved", frozenset(old.sop_instance_uid for old, new in both if old != new))

    @classmethod
    def of(
        cls,
        pairs: Iterable[tuple[InstanceUids, InstanceUids]],
        former: Iterable[tuple[InstanceUids, InstanceUids]] = (),
    ) -> UidMap:
        """A map of these pairs, given in any order."""
        return cls(tuple(pairs), tuple(former))

    def merge(self, other: UidMap) -> UidMap:
        """Both maps in one, say of two studies that change in one step; they must not contradict each other."""
        return UidMap(self.pairs + other.pairs, self.former + other.former)

    def inverse(self) -> UidMap:
        """New to old: what an archive's replacements came from; without ``former``, which do not lead back.

        Raises:
            InvalidInput: ``uid-map-inconsistent``: a series lies in two studies on the old side.
        """
        return UidMap(tuple((new, old) for old, new in self.pairs))

    def find_instance(self, sop_instance_uid: str) -> InstanceUids | None:
        """The new UIDs of an instance given by its old one; None for an instance the map does not know."""
        return self._instances.get(sop_instance_uid)

    def find_series(self, series_instance_uid: str) -> str | None:
        """The new UID of a series all known instances of which went to one series; None when they did not."""
        return self._series.get(series_instance_uid)

    def find_study(self, study_instance_uid: str) -> str | None:
        """The new UID of a study all known instances of which went to one study; None when they did not."""
        return self._studies.get(study_instance_uid)

    def find(self, uid: str) -> str | None:
        """The new UID for a UID of unknown kind: of an instance, else of a series, else of a study."""
        instance = self._instances.get(uid)
        if instance is not None:
            return instance.sop_instance_uid
        return self._series.get(uid) or self._studies.get(uid)

    def __contains__(self, uid: str) -> bool:
        """True for an old UID of an instance, series or study that has a new one."""
        new = self.find(uid)
        return new is not None and new != uid

    def concerns(self, uid: str) -> bool:
        """True when what names this UID may have to change: it has a new one, or its instance lies elsewhere now."""
        return uid in self._moved or uid in self

    @property
    def replaced(self) -> frozenset[str]:
        """The old SOP Instance UIDs that are no more."""
        return frozenset(
            old.sop_instance_uid
            for old, new in (*self.pairs, *self.former)
            if old.sop_instance_uid != new.sop_instance_uid
        )


def _check(
    pairs: tuple[tuple[InstanceUids, InstanceUids], ...], former: tuple[tuple[InstanceUids, InstanceUids], ...]
) -> None:
    old_side = [old.sop_instance_uid for old, _ in (*pairs, *former)]
    new_side = [new.sop_instance_uid for _, new in pairs]
    for side, uids in (("old", old_side), ("new", new_side)):
        if twice := _first_twice(uids):
            raise _inconsistent(f"instance {twice} is on the {side} side twice")
    old_uids = {old.sop_instance_uid for old, _ in pairs}
    former_uids = {old.sop_instance_uid for old, _ in former}
    for old, new in (*pairs, *former):
        if old == new:
            continue
        # What stands for a former one may keep its own UID, but nothing may get the UID of one that is no more.
        taken = former_uids if old.sop_instance_uid in former_uids else old_uids | former_uids
        if new.sop_instance_uid != old.sop_instance_uid and new.sop_instance_uid in taken:
            raise _inconsistent(f"instance {old.sop_instance_uid} would get the UID of another, {new.sop_instance_uid}")
        for uid in (old.sop_instance_uid, old.series_instance_uid, old.study_instance_uid):
            if uid.startswith(_REGISTERED):
                raise _inconsistent(f"{uid} belongs to the standard and can't be replaced")
    # Only on the new side: files that were never brought in step may say what they like.
    study_of: dict[str, str] = {}
    for _, new in (*pairs, *former):
        if study_of.setdefault(new.series_instance_uid, new.study_instance_uid) != new.study_instance_uid:
            raise _inconsistent(f"series {new.series_instance_uid} would lie in two studies")


def _first_twice(uids: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for uid in uids:
        if uid in seen:
            return uid
        seen.add(uid)
    return None


def _unambiguous(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    news: defaultdict[str, set[str]] = defaultdict(set)
    for old, new in pairs:
        if old:
            news[old].add(new)
    return {old: next(iter(found)) for old, found in news.items() if len(found) == 1}


def _inconsistent(problem: str) -> InvalidInput:
    return InvalidInput(
        f"replacement UIDs: {problem}",
        code="uid-map-inconsistent",
        next_step="Report this with the job number; it is a fault in archsync. Nothing was sent.",
    )

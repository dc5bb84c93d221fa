"""The two sides of the comparison: what the platform desires, and what one archive holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from archsync.core.identity import HeldPatient
from archsync.core.job import JobType, KnownJob
from archsync.core.placing import Placed, Survivors, is_in_place, is_wanted, settled_study_uid
from archsync.core.study import Instance, Study
from archsync.core.uid_map import InstanceUids


@dataclass(frozen=True, slots=True)
class HeldInstance:
    """One placement at one archive. ``is_stored`` False: it was offered, and the archive may or may not have it.

    ``rejected_by`` is the rejection note that withdraws it there; ``is_hidden`` says that the archive took that note.
    """

    placed: Placed
    is_stored: bool = True
    is_verified: bool = False
    rejected_by: int | None = None
    is_hidden: bool = False


@dataclass(frozen=True, slots=True)
class Related:
    """An instance of another row of the platform that replaces, or is replaced by, one of the study."""

    study: Study
    instance: Instance


@dataclass(frozen=True, slots=True)
class Desired:
    """What the platform says of one study, and of what is tied to it; the same for every destination.

    ``latest``: the last placement of every instance concerned, by instance key. ``related``: where instances that were
    once in this study are now, and those that replace or are replaced by its own, by instance key. ``replacements``:
    instance key → keys of the platform's own replacements of it. ``origins``: the UIDs with which an instance was first
    placed, which are those in its file. ``filed``: the Study Instance UIDs with which the study went out, oldest first,
    with the patient under whom each did; ``filed_elsewhere``: the same of the other studies in ``related``, by key.
    """

    study: Study
    latest: Mapping[str, Placed] = field(default_factory=dict)
    survivors: Survivors = field(default_factory=dict)
    related: Mapping[str, Related] = field(default_factory=dict)
    replacements: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    origins: Mapping[str, InstanceUids] = field(default_factory=dict)
    filed: Mapping[str, str] = field(default_factory=dict)
    filed_elsewhere: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _rows: Mapping[str, Instance] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", {i.instance_key: i for i in self.study.instances})

    @property
    def study_uid(self) -> str | None:
        """The Study Instance UID that the study has at archives; None: it was never sent under its patient."""
        return self._settled(self.study)

    def _settled(self, study: Study) -> str | None:
        is_own = study.study_key == self.study.study_key
        filed = self.filed if is_own else self.filed_elsewhere.get(study.study_key, {})
        return settled_study_uid(study, filed, self.survivors)

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances that archives are to hold of the study, in a stable order."""
        return tuple(i for i in self.study.present_instances if is_wanted(i, self.latest.get(i.instance_key)))

    def find(self, instance_key: str) -> Related | None:
        """The platform's row of an instance, wherever it is now; None: it has none any more."""
        own = self._rows.get(instance_key)
        return Related(self.study, own) if own is not None else self.related.get(instance_key)

    def placement_of(self, instance: Instance, study: Study | None = None) -> Placed | None:
        """The placement in which an instance is to be held; None while it needs a new one."""
        last = self.latest.get(instance.instance_key)
        if last is None:
            return None
        study = study or self.study
        return last if is_in_place(last, instance, study, self.survivors, study_uid=self._settled(study)) else None


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger knows at one destination of one study, and of what is tied to it.

    ``instances``: by placement id, those under the study and those of its instances elsewhere. ``patients``: by patient
    key, the study's patient and those it was filed under. ``jobs``, oldest first: those that are not done and, if it is
    the latest of its kind, the one that an administrator cancelled or a rule suppressed; ``patient_jobs`` the same of
    ADT messages.
    """

    archived_at: datetime | None = None
    instances: Mapping[int, HeldInstance] = field(default_factory=dict)
    jobs: tuple[KnownJob, ...] = ()
    patients: Mapping[str, HeldPatient] = field(default_factory=dict)
    patient_jobs: tuple[KnownJob, ...] = ()
    _by_instance: Mapping[str, tuple[HeldInstance, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[str, tuple[HeldInstance, ...]] = {}
        for h in self.instances.values():
            found[h.placed.instance_key] = (*found.get(h.placed.instance_key, ()), h)
        object.__setattr__(self, "_by_instance", found)

    def copies_of(self, instance_key: str) -> tuple[HeldInstance, ...]:
        """The placements of an instance there."""
        return self._by_instance.get(instance_key, ())

    @property
    def is_archived(self) -> bool:
        """True when an archive job once brought the whole study there."""
        return self.archived_at is not None

    @property
    def note_jobs(self) -> tuple[KnownJob, ...]:
        """The jobs that deliver rejection notes."""
        return tuple(j for j in self.jobs if j.job_type is JobType.KOS)

    @property
    def store_jobs(self) -> tuple[KnownJob, ...]:
        """The archive and dicom jobs."""
        return tuple(j for j in self.jobs if j.job_type in (JobType.ARCHIVE, JobType.DICOM))

    def holds(self, placed: Placed | None) -> HeldInstance | None:
        """The placement there, if the archive acknowledged it and no note withdraws it."""
        found = None if placed is None else self.instances.get(placed.placement_id)
        return found if found is not None and found.is_stored and found.rejected_by is None else None

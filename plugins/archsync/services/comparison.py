"""Reads the two sides of the comparison: what the platform desires of some studies, and what destinations hold.

The same reading serves the planner, which looks at many studies for all destinations, and a running job, which looks at
one study for its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from archsync.core.comparison import Desired, Held, HeldInstance, Related
from archsync.core.dependants import has_derived
from archsync.core.destination import Destination
from archsync.core.identity import HeldPatient
from archsync.core.job import KnownJob
from archsync.core.placing import Placed, Survivors, first_filed, root
from archsync.core.study import Facility, Instance, Patient, Priority, Study
from archsync.core.uid_map import InstanceUids
from archsync.core.withdrawal import lineage
from archsync.errors import InvalidInput
from archsync.ledger import destinations, holdings, holds, patients, planned_jobs
from archsync.ledger.database import Ledger
from archsync.platformdb.reader import Platform


@dataclass(frozen=True, slots=True)
class Compared:
    """One study at one destination, both sides."""

    desired: Desired
    held: Held
    destination: Destination


@dataclass(frozen=True, slots=True)
class Comparison:
    """Studies at destinations, those that could not be read, and those that are gone and held nowhere."""

    compared: tuple[Compared, ...] = ()
    rejected: Mapping[str, InvalidInput] = field(default_factory=dict)
    vanished: tuple[str, ...] = ()


def compare(
    platform: Platform, ledger: Ledger, study_keys: Sequence[str], targets: Sequence[Destination] | None = None
) -> Comparison:
    """Read some studies, and what ``targets`` (all destinations by default) hold of them.

    Of a study that the platform no longer has, and that is held somewhere, what the ledger knows is given, without
    instances: all of it is left over.
    """
    targets = destinations.all_destinations(ledger) if targets is None else targets
    reading = _Reading(platform, ledger, targets)
    return reading.read(study_keys)


def compare_one(platform: Platform, ledger: Ledger, study_key: str, destination: Destination) -> Compared | None:
    """Read one study at one destination; None: it is gone and held nowhere.

    Raises:
        InvalidInput: the platform's rows of it can't be used.
    """
    found = compare(platform, ledger, [study_key], [destination])
    for error in found.rejected.values():
        raise error
    return found.compared[0] if found.compared else None


def _id(destination: Destination) -> int:
    assert destination.destination_id is not None, "read from the ledger"
    return destination.destination_id


class _Reading:
    """One reading of a batch, step by step; each step asks only for what the last one found."""

    def __init__(self, platform: Platform, ledger: Ledger, targets: Sequence[Destination]) -> None:
        self._platform = platform
        self._ledger = ledger
        self._targets = targets
        self._target_ids = [_id(d) for d in targets]
        self._placed: dict[int, Placed] = {}
        self._by_study: dict[str, list[Placed]] = defaultdict(list)
        self._by_instance: dict[str, list[Placed]] = defaultdict(list)
        self._merged: dict[str, set[str]] = defaultdict(set)
        self._held: dict[int, dict[int, HeldInstance]] = {d: {} for d in self._target_ids}

    def read(self, study_keys: Sequence[str]) -> Comparison:
        batch = self._platform.fetch_studies(study_keys)
        studies = {s.study_key: s for s in batch.studies}
        self._read_placements([*studies, *batch.missing], _instance_keys(studies.values()))
        ghosts = self._ghosts(batch.missing)
        studies = self._with_holds({**studies, **ghosts})
        related, replacements = self._read_related(studies)
        survivors = self._read_survivors([*studies.values(), *(r.study for r in related.values())])
        for key, survivor in survivors.items():
            self._merged[survivor].add(key)
        latest = {key: placed[-1] for key, placed in self._by_instance.items()}
        elsewhere = {r.study.study_key for r in related.values()}
        filed_elsewhere = {key: first_filed(self._by_study.get(key, ())) for key in elsewhere}
        desired = [
            Desired(
                study,
                latest={k: latest[k] for k in self._keys_around(study, related, replacements) if k in latest},
                survivors=survivors,
                related=related,
                replacements=replacements,
                origins={k: _origin(self._by_instance[k][0]) for k in latest},
                filed=first_filed(self._by_study.get(study.study_key, ())),
                filed_elsewhere=filed_elsewhere,
            )
            for study in studies.values()
        ]
        return Comparison(
            compared=self._pair(desired),
            rejected=batch.rejected,
            vanished=tuple(key for key in batch.missing if key not in ghosts),
        )

    # -- the platform's side -------------------------------------------------------------------------------------

    def _read_placements(self, study_keys: Collection[str], instance_keys: Collection[str]) -> None:
        """Read placements, and what the targets hold of them; those read before stay."""
        new = {
            p.placement_id: p
            for p in holdings.placements(self._ledger, study_keys=study_keys, instance_keys=instance_keys)
            if p.placement_id not in self._placed
        }
        self._placed |= new
        for placed in new.values():
            self._by_study[placed.study_key].append(placed)
            self._by_instance[placed.instance_key].append(placed)
        for found in self._by_instance.values():
            found.sort(key=lambda p: p.placement_no)
        for destination_id, held in holdings.held(self._ledger, self._target_ids, new).items():
            self._held[destination_id] |= held

    def _is_held_somewhere(self, placed: Placed) -> bool:
        return any(placed.placement_id in held for held in self._held.values())

    def _ghosts(self, study_keys: Iterable[str]) -> dict[str, Study]:
        """Studies that the platform no longer has and an archive does, as far as the ledger knows them."""
        last = {
            key: next((p for p in reversed(self._by_study.get(key, [])) if self._is_held_somewhere(p)), None)
            for key in study_keys
        }
        known = {key: placed for key, placed in last.items() if placed is not None}
        survivors = self._platform.resolve_survivors({p.patient_key for p in known.values()}) if known else {}
        found = self._platform.fetch_patients(set(survivors.values())) if survivors else {}
        ghosts = {}
        for key, placed in known.items():
            patient = found.get(root(placed.patient_key, survivors))
            ghosts[key] = Study(
                study_key=key,
                study_instance_uid=placed.uids.study_instance_uid,
                patient=patient or Patient(placed.patient_key, "", None, ""),
                facility=Facility("", "", ""),
                exam_status="",
                priority=Priority.ROUTINE,
            )
        return ghosts

    def _with_holds(self, studies: dict[str, Study]) -> dict[str, Study]:
        """An administrator's hold counts like the platform's own."""
        held_back = holds.held_back(self._ledger, list(studies))
        return {key: replace(s, on_hold=True) if key in held_back else s for key, s in studies.items()}

    def _read_related(self, studies: Mapping[str, Study]) -> tuple[dict[str, Related], dict[str, tuple[str, ...]]]:
        """Where instances are now that archives hold under these studies, and what replaces or is replaced by them."""
        present = {(s.study_key, i.instance_key) for s in studies.values() for i in s.present_instances}
        rows = {i.instance_key: s.study_key for s in studies.values() for i in s.instances}
        gone_from = {
            (key, p.instance_key)
            for key in studies
            for p in self._by_study.get(key, [])
            if (key, p.instance_key) not in present and self._is_held_somewhere(p)
        }
        gone = {key for _, key in gone_from}
        pointed_at = _pointed_at(studies.values())
        former = {
            key
            for s in studies.values()
            for i in s.present_instances
            if (key := i.replaces_instance_key) is not None
            and key not in rows
            and (key in self._by_instance or key in pointed_at)
        }
        if not gone and not former and not pointed_at:
            return {}, {}
        found = dict(self._platform.find_instances((gone | former) - rows.keys()))
        # What moved from one study of this batch to another has its row here already.
        found.update({key: rows[key] for study_key, key in gone_from if rows.get(key, study_key) != study_key})
        replacements: dict[str, tuple[str, ...]] = {}
        for original, pairs in self._platform.find_replacements(gone | pointed_at).items():
            replacements[original] = tuple(key for _, key in pairs)
            found.update({key: study_key for study_key, key in pairs if (study_key, original) not in gone_from})
        elsewhere = sorted(set(found.values()) - set(studies))
        others = self._with_holds({s.study_key: s for s in self._platform.fetch_studies(elsewhere).studies})
        here = {**others, **studies}
        related = {
            key: Related(here[study_key], instance)
            for key, study_key in found.items()
            if study_key in here and (instance := _row(here[study_key], key)) is not None
        }
        replaced = {key for r in related.values() if (key := r.instance.replaces_instance_key) is not None}
        self._read_placements({r.study.study_key for r in related.values()}, related.keys() | replaced)
        return related, replacements

    def _read_survivors(self, studies: Iterable[Study]) -> Survivors:
        """Who the patients are under whom anything of these studies was filed, and who gave way to theirs.

        An archive may know a patient by a record that none of these studies names any more.
        """
        current = {s.patient.patient_key for s in studies}
        merged = self._platform.find_merged(current)
        filed = {p.patient_key for p in self._placed.values()} - current - merged.keys()
        return {**merged, **(self._platform.resolve_survivors(filed | current) if filed else {})}

    def _keys_around(
        self, study: Study, related: Mapping[str, Related], replacements: Mapping[str, tuple[str, ...]]
    ) -> set[str]:
        own = {i.instance_key for i in study.instances} | {p.instance_key for p in self._by_study[study.study_key]}
        rows = Desired(study, related=related)
        former = {key for i in study.instances if i.replaces_instance_key for key in lineage(i, rows)}
        following = {key for k in own | former for key in replacements.get(k, ())}
        return own | former | following

    # -- the archives' side --------------------------------------------------------------------------------------

    def _pair(self, desired: Sequence[Desired]) -> tuple[Compared, ...]:
        study_keys = [d.study.study_key for d in desired]
        archived = holdings.archived_studies(self._ledger, self._target_ids, study_keys)
        filed_under = {d.study.study_key: self._patients_around(d) for d in desired}
        keys = {key for found in filed_under.values() for key in found}
        known_patients = patients.held(self._ledger, self._target_ids, keys)
        study_jobs = planned_jobs.known_jobs(self._ledger, self._target_ids, study_keys)
        patient_jobs = planned_jobs.known_patient_jobs(self._ledger, self._target_ids, keys)
        return tuple(
            Compared(
                d,
                Held(
                    archived_at=archived.get((_id(target), d.study.study_key)),
                    instances=self._held_of(d, _id(target)),
                    jobs=tuple(study_jobs.get((_id(target), d.study.study_key), ())),
                    patients=_only(known_patients[_id(target)], filed_under[d.study.study_key]),
                    patient_jobs=_jobs_of(patient_jobs.get(_id(target), ()), filed_under[d.study.study_key]),
                ),
                target,
            )
            for target in self._targets
            for d in desired
        )

    def _held_of(self, desired: Desired, destination_id: int) -> dict[int, HeldInstance]:
        held = self._held[destination_id]
        placed = list(self._by_study.get(desired.study.study_key, ()))
        for key in desired.latest:
            placed += self._by_instance[key]
        return {p.placement_id: held[p.placement_id] for p in placed if p.placement_id in held}

    def _patients_around(self, desired: Desired) -> set[str]:
        """The study's patient, those who were merged into them, and those under whom some of it was filed."""
        own = desired.study.patient.patient_key
        filed = {p.patient_key for p in self._by_study.get(desired.study.study_key, ())}
        if not desired.study.patient.patient_id:
            return filed  # a ghost's: nobody can say who they are now
        return {own, *filed, *self._merged.get(own, ())}


def _only(known: Mapping[str, HeldPatient], keys: Collection[str]) -> dict[str, HeldPatient]:
    return {key: known[key] for key in keys if key in known}


def _jobs_of(known: Iterable[KnownJob], keys: Collection[str]) -> tuple[KnownJob, ...]:
    return tuple(j for j in known if j.patient_key in keys)


def _instance_keys(studies: Iterable[Study]) -> set[str]:
    keys: set[str] = set()
    for study in studies:
        for instance in study.instances:
            keys.add(instance.instance_key)
            if instance.replaces_instance_key is not None:
                keys.add(instance.replaces_instance_key)
    return keys


def _pointed_at(studies: Iterable[Study]) -> set[str]:
    """Instances that were removed or replaced, and at which objects of their study may point."""
    return {
        key
        for s in studies
        if has_derived(s)
        for i in s.instances
        for key in (i.instance_key if i.removed_at is not None else None, i.replaces_instance_key)
        if key is not None
    }


def _origin(first: Placed) -> InstanceUids:
    return InstanceUids(first.uids.study_instance_uid, first.source_series_instance_uid, first.source_sop_instance_uid)


def _row(study: Study, instance_key: str) -> Instance | None:
    return next((i for i in study.instances if i.instance_key == instance_key), None)

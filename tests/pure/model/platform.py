"""The platform: its rows, and what may be done to them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime

from archsync.core.study import Facility, Instance, Patient, RemovalReason, Study
from model.archive import CT, EXPLICIT_LE


class PlatformModel:
    """The platform's rows, and which studies changed."""

    def __init__(self, story: list[str]) -> None:
        self.story = story
        self.patients: dict[str, Patient] = {}
        self.studies: dict[str, Study] = {}
        self.instances: dict[str, Instance] = {}
        self.changed: set[str] = set()
        self.former_ids: set[str] = set()
        self._numbers = itertools.count(1)

    # reading

    def survivor(self, patient_key: str) -> str:
        while (following := self.patients[patient_key].merged_into_patient_key) is not None:
            patient_key = following
        return patient_key

    def survivors(self) -> dict[str, str]:
        return {key: self.survivor(key) for key in self.patients}

    def read(self, study_key: str) -> Study | None:
        study = self.studies.get(study_key)
        if study is None:
            return None
        instances = tuple(i for i in self.instances.values() if i.study_key == study_key)
        return replace(study, patient=self.patients[self.survivor(study.patient.patient_key)], instances=instances)

    def present(self, study_key: str | None = None) -> list[Instance]:
        return [
            i
            for i in self.instances.values()
            if i.removed_at is None and (study_key is None or i.study_key == study_key)
        ]

    # writing

    def _touch(self, *study_keys: str) -> None:
        self.changed.update(study_keys)

    def _touch_patient(self, patient_key: str) -> None:
        survivor = self.survivor(patient_key)
        self._touch(*(k for k, s in self.studies.items() if self.survivor(s.patient.patient_key) == survivor))

    def _tell(self, text: str) -> None:
        self.story.append(f"platform: {text}")

    def add_patient(self, patient_id: str | None = None) -> str:
        number = next(self._numbers)
        key = f"p{number}"
        patient_id = patient_id or f"MRN{number}"
        self.patients[key] = Patient(key, patient_id, "CITY", f"Name{number}^Given", date(1950, 1, 2), "F")
        return key

    def add_study(self, patient_key: str, facility: Facility, exam_status: str, instances: int) -> str:
        number = next(self._numbers)
        key = f"s{number}"
        patient = self.patients[self.survivor(patient_key)]
        self.studies[key] = Study(key, f"1.2.{number}", patient, facility, exam_status)
        self._tell(f"study {key} of patient {patient.patient_key} at {facility.facility_id}, {exam_status}")
        self.add_images(key, instances)
        return key

    def add_images(self, study_key: str, count: int, **values) -> list[Instance]:
        made = []
        for _ in range(count):
            number = next(self._numbers)
            uid = self.studies[study_key].study_instance_uid
            facts = {"series_instance_uid": f"{uid}.1", "location": "file:///x", "size_bytes": 1, **values}
            instance = Instance(
                instance_key=f"i{number}",
                study_key=study_key,
                series_number=1,
                modality="CT",
                sop_instance_uid=f"{uid}.1.{number}",
                sop_class_uid=CT,
                transfer_syntax_uid=EXPLICIT_LE,
                instance_number=1,
                **facts,
            )
            self.instances[instance.instance_key] = instance
            made.append(instance)
        self._touch(study_key)
        self._tell(f"images {', '.join(i.instance_key for i in made)} arrive in {study_key}")
        return made

    def update(self, instance: Instance, text: str, **values) -> None:
        changed = replace(instance, **values)
        self.instances[instance.instance_key] = changed
        self._touch(instance.study_key, changed.study_key)
        self._tell(f"image {instance.instance_key} {text}")

    def remove(self, chosen: Sequence[Instance], reason: RemovalReason | None, now: datetime) -> None:
        for i in chosen:
            self.update(
                i, f"is removed ({reason.value if reason else 'no reason'})", removed_at=now, removal_reason=reason
            )

    def delete(self, chosen: Sequence[Instance]) -> None:
        for i in chosen:
            del self.instances[i.instance_key]
            for other in list(self.instances.values()):
                if other.replaces_instance_key == i.instance_key:
                    self.update(other, "replaces nothing any more", replaces_instance_key=None)
            self._touch(i.study_key)
            self._tell(f"row of image {i.instance_key} is deleted")

    def restore(self, chosen: Sequence[Instance]) -> None:
        for i in chosen:
            self.update(i, "is shown again", removed_at=None, removal_reason=None)

    def delete_study(self, study_key: str) -> None:
        self.delete([i for i in self.instances.values() if i.study_key == study_key])
        del self.studies[study_key]
        self._touch(study_key)
        self._tell(f"study {study_key} is deleted")

    def move(self, chosen: Sequence[Instance], target_key: str) -> None:
        for i in chosen:
            self.update(i, f"moves from {i.study_key} to {target_key}", study_key=target_key)

    def replace_images(self, chosen: Sequence[Instance], target_key: str, reason: RemovalReason, now: datetime) -> None:
        self.remove(chosen, reason, now)
        for i in chosen:
            (new,) = self.add_images(target_key, 1, replaces_instance_key=i.instance_key)
            self._tell(f"image {new.instance_key} takes the place of {i.instance_key}")

    def change_study(self, study_key: str, text: str, **values) -> None:
        self.studies[study_key] = replace(self.studies[study_key], **values)
        self._touch(study_key)
        self._tell(f"study {study_key} {text}")

    def free_identifiers(self) -> list[str]:
        """The Patient IDs that somebody had and nobody has any more."""
        return sorted(self.former_ids - {p.patient_id for p in self.patients.values()})

    def change_patient(self, patient_key: str, text: str, **values) -> None:
        self.former_ids.add(self.patients[patient_key].patient_id)
        self.patients[patient_key] = replace(self.patients[patient_key], **values)
        self._touch_patient(patient_key)
        self._tell(f"patient {patient_key} {text}")

    def merge(self, prior_key: str, survivor_key: str, *, repoint: bool) -> None:
        self.change_patient(prior_key, f"gives way to {survivor_key}", merged_into_patient_key=survivor_key)
        for key, study in self.studies.items():
            if repoint and study.patient.patient_key == prior_key:
                self.studies[key] = replace(study, patient=self.patients[survivor_key])

"""What happens to studies and patients after they were archived, told chapter by chapter on the demo platform."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from archsync.core.study import RemovalReason, Study
from archsync.simulate.platform import SimulatedPlatform

#: A study of fewer images is not cut up.
_ENOUGH = 4


@dataclass(frozen=True, slots=True)
class Chapter:
    """One thing that happens on the platform, and how it is told."""

    title: str
    happen: Callable[[], object]
    is_outage: bool = False
    """An archive goes down with it; the chapters that follow find it so."""


def write_story(platform: SimulatedPlatform, studies: Sequence[Study]) -> list[Chapter]:
    """The chapters that ``studies`` (archived ones, the best first) have the cast for; each patient plays in one."""
    cast = _Cast(studies)
    chapters: list[Chapter] = []
    if study := cast.study():
        chapters.append(
            Chapter(
                "two images are deleted for bad quality",
                partial(platform.remove_instances, study.study_key, 2, reason=RemovalReason.QUALITY),
            )
        )
    if study := cast.study():
        chapters.append(
            Chapter(
                "a study turns out to be two: three of its images move to a new one",
                partial(platform.split_study, study.study_key, instances=3),
            )
        )
    if study := cast.study():
        chapters.append(
            Chapter(
                "an archive goes down, and meanwhile a patient's name is corrected",
                partial(platform.correct_name, study.patient.patient_key, "Berger^Corrected"),
                is_outage=True,
            )
        )
    if pair := cast.studies_of_one_patient():
        source, target = pair
        chapters.append(
            Chapter(
                "two studies of a patient are merged into one",
                partial(platform.merge_studies, source.study_key, target.study_key),
            )
        )
    if study := cast.study():
        chapters.append(
            Chapter(
                "a patient gets another MRN",
                partial(platform.change_mrn, study.patient.patient_key, f"{study.patient.patient_id}-NEW"),
            )
        )
    prior, survivor = cast.study(), cast.study()
    if prior and survivor:
        chapters.append(
            Chapter(
                "two records turn out to be one patient and are merged",
                partial(platform.merge_patients, prior.patient.patient_key, survivor.patient.patient_key),
            )
        )
    study, right = cast.study(), cast.study()
    if study and right:
        chapters.append(
            Chapter(
                "a study was filed to the wrong patient and goes to the right one",
                partial(platform.move_study, study.study_key, right.patient.patient_key),
            )
        )
    return chapters


class _Cast:
    """Hands out studies, no patient twice."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._played: set[str] = set()
        self._studies = list(studies)
        self._pairs = self._find_pairs()
        reserved = {pair[0].patient.patient_key for pair in self._pairs[:1]}
        self._single = iter([s for s in self._studies if s.patient.patient_key not in reserved])

    def _find_pairs(self) -> list[tuple[Study, Study]]:
        return [
            (one, other)
            for one, other in itertools.combinations(self._studies, 2)
            if one.patient.patient_key == other.patient.patient_key
            and one.facility.facility_id == other.facility.facility_id
        ]

    def study(self) -> Study | None:
        for study in self._remaining():
            if len(study.present_instances) >= _ENOUGH:
                self._played.add(study.patient.patient_key)
                return study
        return None

    def _remaining(self) -> Iterator[Study]:
        return (s for s in self._single if s.patient.patient_key not in self._played)

    def studies_of_one_patient(self) -> tuple[Study, Study] | None:
        return self._pairs[0] if self._pairs else None

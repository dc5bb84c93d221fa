"""What happens to studies and patients after they were archived, told chapter by chapter on the demo platform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    both: list[str] = []
    if study := cast.study():
        both.append(study.study_key)
        chapters.append(
            Chapter(
                "a study turns out to be two: three of its images move to a new one",
                partial(_split, platform, both),
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
    if study := cast.study():
        chapters.append(
            Chapter(
                "a patient gets another MRN",
                partial(platform.change_mrn, study.patient.patient_key, f"{study.patient.patient_id}-NEW"),
            )
        )
    prior = cast.study()
    # Only within one authority: a merge may not mix identifiers of two.
    survivor = cast.study(1, issuer=prior.patient.issuer_of_patient_id) if prior else None
    if prior and survivor:
        chapters.append(
            Chapter(
                "two records turn out to be one patient and are merged",
                partial(platform.merge_patients, prior.patient.patient_key, survivor.patient.patient_key),
            )
        )
    study, right = cast.study(1), cast.study(1)
    if study and right:
        chapters.append(
            Chapter(
                "a study was filed to the wrong patient and goes to the right one",
                partial(platform.move_study, study.study_key, right.patient.patient_key),
            )
        )
    if both:
        chapters.append(Chapter("the two were one after all: they are merged again", partial(_merge, platform, both)))
    return chapters


def _split(platform: SimulatedPlatform, both: list[str]) -> None:
    both.append(platform.split_study(both[0], instances=3))


def _merge(platform: SimulatedPlatform, both: list[str]) -> None:
    platform.merge_studies(both[1], both[0])


class _Cast:
    """Hands out studies, no patient twice."""

    def __init__(self, studies: Sequence[Study]) -> None:
        self._played: set[str] = set()
        self._studies = list(studies)

    def study(self, images: int = _ENOUGH, *, issuer: str | None = None) -> Study | None:
        """A study of a patient who has not played yet, with so many images, of this authority."""
        for study in self._studies:
            patient = study.patient
            is_free = patient.patient_key not in self._played
            if is_free and len(study.present_instances) >= images and issuer in (None, patient.issuer_of_patient_id):
                self._played.add(patient.patient_key)
                return study
        return None

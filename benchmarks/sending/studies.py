"""Studies of any number of small images on the simulated platform, made fast."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pydicom

from archsync.simulate.platform import SimulatedPlatform
from archsync.simulate.volumes import DemoPatient, VolumeStudy, write_volume

MATRIX = 128
_PATIENT = DemoPatient("BENCH000000", None, "BENCH^MARK", None, None)
_STUDY_UID, _SERIES_UID, _SOP_UID = (f"2.25.{kind}{'0' * 17}" for kind in (1, 2, 3))
"""Take the places of UIDs in the template; every real one is as long."""


class StudyMaker:
    """Adds studies of one facility, each with a patient of its own."""

    _numbers = itertools.count(1)

    def __init__(self, platform: SimulatedPlatform, folder: Path, facility_id: str) -> None:
        self._platform = platform
        self._folder = folder
        self._facility_id = facility_id
        self._template = _make_template(folder / "template")

    def add(self, count: int) -> tuple[str, Path]:
        """A study of so many images, Pending; its key and the folder of its files."""
        number = next(self._numbers)
        patient = DemoPatient(f"BENCH{number:06}", None, "BENCH^MARK", None, None)
        study_uid, series_uid = _numbered(_STUDY_UID, number), _numbered(_SERIES_UID, number)
        common = (
            self._template.replace(_STUDY_UID.encode(), study_uid.encode())
            .replace(_SERIES_UID.encode(), series_uid.encode())
            .replace(_PATIENT.patient_id.encode(), patient.patient_id.encode())
        )
        folder = self._folder / study_uid
        folder.mkdir(parents=True)
        files = []
        for image in range(count):
            sop_uid = _numbered(_SOP_UID, number * 100_000 + image)
            files.append(folder / f"{image:05}.dcm")
            files[-1].write_bytes(common.replace(_SOP_UID.encode(), sop_uid.encode()))
        key = self._platform.add_study(
            files, facility_id=self._facility_id, patient=patient, accession_number=f"B{number}"
        )
        return key, folder


def _numbered(uid: str, number: int) -> str:
    return str(int(uid.removeprefix("2.25.")) + number).join(("2.25.", ""))


def _make_template(folder: Path) -> bytes:
    study = VolumeStudy(_STUDY_UID, "B1", datetime(2026, 1, 5, tzinfo=UTC), "BENCHMARK", _PATIENT)
    (path,) = write_volume(folder, study, modality="CT", slices=1, matrix=MATRIX)
    image = pydicom.dcmread(path)
    image.SeriesInstanceUID = _SERIES_UID
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = _SOP_UID
    buffer = BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()

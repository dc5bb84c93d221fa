"""Made-up patients and multi-slice CT and MR volumes: the same seed gives the same bytes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

_NAMESPACE = uuid.UUID("6b9f6c3e-8c0b-5d0e-9a53-3f6d6c1a2f10")
_IMPLEMENTATION_CLASS_UID = "2.25.239862310982710473659123749261039482712"

_FAMILY_NAMES = (
    "Berg", "Müller", "Nguyen", "O'Hara", "Rossi", "Larsen", "Kowalski", "Fernández", "Dupont", "van der Meer",
)  # fmt: skip
_GIVEN_NAMES = {"F": ("Anna", "Chiara", "Ingrid", "Léa", "Maria"), "M": ("Ben", "Jonas", "Luca", "Piotr", "Søren")}
#: One in a dozen has a name in three groups (PS3.5 section 6.2.1).
_IDEOGRAPHIC = "Yamada^Tarou=山田^太郎=やまだ^たろう"

_SLICE_MM = 2.5


@dataclass(frozen=True, slots=True)
class DemoPatient:
    """A patient who never was. ``name`` is a DICOM PN value."""

    patient_id: str
    issuer_of_patient_id: str | None
    name: str
    birth_date: date | None
    sex: str | None

    @property
    def birth_date_text(self) -> str:
        """The birth date as a DICOM DA value; empty if unknown."""
        return f"{self.birth_date:%Y%m%d}" if self.birth_date else ""


@dataclass(frozen=True, slots=True)
class VolumeStudy:
    """What the files of one study have in common."""

    study_instance_uid: str
    accession_number: str
    performed_at: datetime
    description: str
    patient: DemoPatient


def make_uid(*parts: object) -> str:
    """A UID below 2.25 (PS3.5 B.2) that is always the same for the same parts."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def make_patient(random: Random, patient_id: str, issuer: str) -> DemoPatient:
    """Make up a patient."""
    sex = random.choice("FM")
    name = f"{random.choice(_FAMILY_NAMES)}^{random.choice(_GIVEN_NAMES[sex])}"
    if random.random() < 1 / 12:
        name, sex = _IDEOGRAPHIC, "M"
    birth_date = date.fromordinal(date(1930, 1, 1).toordinal() + random.randrange(85 * 365))
    return DemoPatient(patient_id, issuer, name, birth_date, sex)


def write_volume(
    folder: Path, study: VolumeStudy, *, modality: str, slices: int, matrix: int = 256, series_number: int = 1
) -> Sequence[Path]:
    """Write one axial series of ``slices`` images of ``matrix`` × ``matrix`` 16-bit pixels and return its files."""
    folder.mkdir(parents=True, exist_ok=True)
    series_instance_uid = make_uid(study.study_instance_uid, series_number)
    noise = np.random.default_rng(uuid.uuid5(_NAMESPACE, series_instance_uid).int)
    paths = []
    for number in range(1, slices + 1):
        pixels = _paint_slice(noise, modality, number, slices, matrix)
        dataset = _build_image(study, modality, series_instance_uid, series_number, number, pixels)
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _paint_slice(
    noise: np.random.Generator, modality: str, number: int, slices: int, matrix: int
) -> np.ndarray[Any, np.dtype[np.int16]]:
    """An ellipse with a bright spine and a lesion somewhere in the middle: a torso for the undemanding."""
    y, x = np.mgrid[-1 : 1 : matrix * 1j, -1 : 1 : matrix * 1j]
    depth = (number - 0.5) / slices * 2 - 1
    air, tissue, bone, lesion = (-1000, 40, 700, 90) if modality == "CT" else (10, 420, 60, 900)
    image: np.ndarray[Any, np.dtype[np.float32]] = np.full((matrix, matrix), air, dtype=np.float32)
    image[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = tissue
    image[x**2 + (y - 0.4) ** 2 < 0.01] = bone
    image[(x - 0.3) ** 2 + (y + 0.1) ** 2 + (depth / 2) ** 2 < 0.02] = lesion
    image += noise.normal(0, 12, image.shape)
    return np.clip(image, -1024, 3071).astype("<i2")


def _build_image(
    study: VolumeStudy,
    modality: str,
    series_instance_uid: str,
    series_number: int,
    number: int,
    pixels: np.ndarray[Any, np.dtype[np.int16]],
) -> Dataset:
    patient = study.patient
    sop_class_uid = CTImageStorage if modality == "CT" else MRImageStorage
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class_uid
    meta.MediaStorageSOPInstanceUID = make_uid(series_instance_uid, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_CLASS_UID
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    image.SpecificCharacterSet = "ISO_IR 192"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY", "OTHER"]
    image.SOPClassUID = sop_class_uid
    image.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    image.StudyDate = image.SeriesDate = f"{study.performed_at:%Y%m%d}"
    image.StudyTime = image.SeriesTime = f"{study.performed_at:%H%M%S}"
    image.AccessionNumber = study.accession_number
    image.Modality = modality
    image.BodyPartExamined = "ABDOMEN" if modality == "CT" else "HEAD"
    image.PatientPosition = "HFS"
    image.Manufacturer = "archsync simulator"
    image.ReferringPhysicianName = "Referrer^Demo"
    image.StudyDescription = study.description
    image.SeriesDescription = f"Axial {modality}, series {series_number}"
    image.PatientName = patient.name
    image.PatientID = patient.patient_id
    image.IssuerOfPatientID = patient.issuer_of_patient_id or ""
    image.PatientBirthDate = patient.birth_date_text
    image.PatientSex = patient.sex or ""
    image.SliceThickness = _SLICE_MM
    image.StudyInstanceUID = study.study_instance_uid
    image.SeriesInstanceUID = series_instance_uid
    image.StudyID = study.accession_number[-8:]
    image.SeriesNumber = series_number
    image.AcquisitionNumber = 1
    image.InstanceNumber = number
    image.ImagePositionPatient = [-200.0, -200.0, number * _SLICE_MM]
    image.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    image.FrameOfReferenceUID = make_uid(study.study_instance_uid, "frame of reference")
    image.PositionReferenceIndicator = ""
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.PixelSpacing = [400.0 / pixels.shape[0], 400.0 / pixels.shape[1]]
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit = 15
    image.PixelRepresentation = 1
    if modality == "CT":
        image.KVP = 120
        image.RescaleIntercept, image.RescaleSlope = 0, 1
        image.RescaleType = "HU"
    else:
        image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "SE", "NONE", ""
        image.MRAcquisitionType = "2D"
        image.EchoTime, image.RepetitionTime, image.EchoTrainLength = 12, 500, 1
    image.PixelData = pixels.tobytes()
    return image

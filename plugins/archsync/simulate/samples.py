"""Real DICOM files for the simulated platform: samples that come inside pydicom's wheel, sorted into studies.

Chosen so that each SOP Instance UID appears once, with the kinds of objects and transfer syntaxes that archives meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time
from pathlib import Path
from typing import Any

import pydicom
import pydicom.data
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from archsync.errors import InvalidInput

#: Kinds first, so that a small platform has most of them. pydicom's test_files/README.txt tells where they are from.
_FILES = (
    "CT_small.dcm",  # Explicit VR Little Endian
    "MR_small_jpeg_ls_lossless.dcm",  # JPEG-LS lossless
    "rtplan.dcm",  # RT Plan, Implicit VR Little Endian
    "rtdose_rle.dcm",  # RT Dose, 15 frames, RLE
    "liver_1frame.dcm",  # Segmentation, one bit a pixel
    "waveform_ecg.dcm",  # 12-lead ECG: no pixels
    "test-SR.dcm",  # Comprehensive SR
    "examples_ybr_color.dcm",  # ultrasound, 30 frames, JPEG baseline
    "image_dfl.dcm",  # Deflated
    "SC_rgb_jpeg_dcmtk.dcm",  # JPEG baseline, the next five of the same study
    "SC_rgb_jpeg_gdcm.dcm",  # JPEG lossless
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_gdcm_KY.dcm",  # JPEG 2000, lossy
    "SC_rgb_small_odd_big_endian.dcm",  # Explicit VR Big Endian, odd number of bytes
    "SC_ybr_full_422_uncompressed.dcm",
    "J2K_pixelrep_mismatch.dcm",  # JPEG 2000 lossless, Japanese names
    "JPGExtended.dcm",  # JPEG extended, 12 bit
    "examples_jpeg2k.dcm",  # JPEG 2000 lossless, colour
    "examples_rgb_color.dcm",
    "693_J2KI.dcm",
    "ExplVR_BigEnd.dcm",
    "examples_palette.dcm",
    "examples_overlay.dcm",
    "reportsi.dcm",  # Basic Text SR
    "GDCMJ2K_TextGBR.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
)

#: Folders of small studies with several series: CR and CT, CT, MR.
_FOLDERS = ("dicomdirtests/77654033", "dicomdirtests/98892001", "dicomdirtests/98892003")

_HEADER_TAGS = (
    "SpecificCharacterSet", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyDescription", "StudyID",
    "ReferringPhysicianName", "SeriesInstanceUID", "SeriesNumber", "Modality", "SOPInstanceUID", "SOPClassUID",
    "InstanceNumber",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a platform's database would take from a DICOM file."""

    path: Path
    size_bytes: int
    patient_id: str
    study_instance_uid: str
    study_date: date | None
    study_time: time | None
    study_description: str | None
    study_id: str | None
    referring_physician: str | None
    series_instance_uid: str
    series_number: int | None
    modality: str | None
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    instance_number: int | None


def read_header(path: Path) -> FileHeader:
    """Read a DICOM file's header.

    Raises:
        InvalidInput: it is no DICOM file, or lacks a UID.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS))
    except (OSError, pydicom.errors.InvalidDicomError) as exc:
        raise InvalidInput(f"{path.name} can't be read as a DICOM file") from exc
    uids = {
        "study_instance_uid": header.get("StudyInstanceUID"),
        "series_instance_uid": header.get("SeriesInstanceUID"),
        "sop_instance_uid": header.get("SOPInstanceUID"),
        "sop_class_uid": header.get("SOPClassUID"),
        "transfer_syntax_uid": header.file_meta.get("TransferSyntaxUID"),
    }
    if lacking := [name for name, uid in uids.items() if not uid]:
        raise InvalidInput(f"{path.name} lacks {', '.join(lacking)}")
    return FileHeader(
        path=path,
        size_bytes=path.stat().st_size,
        patient_id=_text(header, "PatientID") or "",
        study_date=_date(header),
        study_time=_time(header),
        study_description=_text(header, "StudyDescription"),
        study_id=_text(header, "StudyID"),
        referring_physician=_text(header, "ReferringPhysicianName"),
        series_number=_number(header, "SeriesNumber"),
        modality=_text(header, "Modality"),
        instance_number=_number(header, "InstanceNumber"),
        **{name: str(uid) for name, uid in uids.items()},
    )


def sample_studies() -> list[list[FileHeader]]:
    """The samples, grouped by study, always in the same order."""
    studies: dict[str, list[FileHeader]] = {}
    for path in _sample_paths():
        header = read_header(path)
        studies.setdefault(header.study_instance_uid, []).append(header)
    return list(studies.values())


def copy_sample(sample: FileHeader, folder: Path) -> Path:
    """Copy a sample byte for byte into ``folder``, named after its SOP Instance UID, and return the copy.

    A sample whose file meta information names another instance than its data set gets that corrected; the data set
    stays as it is.
    """
    target = folder / f"{sample.sop_instance_uid}.dcm"
    folder.mkdir(parents=True, exist_ok=True)
    meta = pydicom.filereader.read_file_meta_info(sample.path)
    if meta.MediaStorageSOPInstanceUID == sample.sop_instance_uid:
        target.write_bytes(sample.path.read_bytes())
    else:
        dataset = pydicom.dcmread(sample.path)
        dataset.file_meta.MediaStorageSOPInstanceUID = sample.sop_instance_uid
        dataset.save_as(target, enforce_file_format=True)
    return target


def _sample_paths() -> Iterator[Path]:
    for name in _FILES:
        # Without download=False pydicom looks for a newer file on the network.
        yield Path(str(pydicom.data.get_testdata_file(name, download=False)))
    root = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False))).parent
    for folder in _FOLDERS:
        yield from sorted(path for path in (root / folder).rglob("*") if path.is_file())


def _text(header: Dataset, keyword: str) -> str | None:
    value = header.get(keyword)
    return str(value) if value not in (None, "") else None


def _number(header: Dataset, keyword: str) -> int | None:
    value: Any = header.get(keyword)
    return int(value) if value not in (None, "") else None


def _date(header: Dataset) -> date | None:
    text = (_text(header, "StudyDate") or "").replace(".", "")  # 1997.04.24 was the form of ACR-NEMA
    value = DA(text) if text else None
    return date(value.year, value.month, value.day) if value else None


def _time(header: Dataset) -> time | None:
    text = (_text(header, "StudyTime") or "").replace(":", "")
    value = TM(text) if text else None
    return time(value.hour, value.minute, value.second, value.microsecond) if value else None

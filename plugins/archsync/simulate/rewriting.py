"""How the simulated platform rewrites a DICOM file: under other UIDs in another study, or with other content.

Independent of what the sender does to a file, so that the two can be compared.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pydicom.config
from pydicom.dataset import Dataset

from archsync.simulate.volumes import DemoPatient

_UTF_8 = "ISO_IR 192"

_unjudged = threading.Lock()


@dataclass(frozen=True, slots=True)
class NewHeader:
    """The study and patient that a rewritten file is to belong to."""

    study_instance_uid: str
    accession_number: str | None
    description: str | None
    study_id: str | None
    patient: DemoPatient


def rewrite(source: Path, target: Path, header: NewHeader, uids: Mapping[str, str]) -> None:
    """Write ``source`` anew for another study: pixels and all else as they are.

    ``uids`` gives the new UID for each former series and instance; references to them follow, at any depth.
    """
    with _rewriting(source, target) as dataset:
        _replace_uids(dataset, uids)
        patient = header.patient
        texts = {
            "PatientID": patient.patient_id,
            "IssuerOfPatientID": patient.issuer_of_patient_id,
            "PatientName": patient.name,
            "PatientBirthDate": patient.birth_date_text,
            "PatientSex": patient.sex,
            "AccessionNumber": header.accession_number,
            "StudyDescription": header.description,
            "StudyID": header.study_id,
        }
        if not "".join(filter(None, texts.values())).isascii() and dataset.get("SpecificCharacterSet") != _UTF_8:
            dataset.decode()
            dataset.SpecificCharacterSet = _UTF_8
        for keyword, text in texts.items():
            setattr(dataset, keyword, text or "")
        dataset.StudyInstanceUID = header.study_instance_uid
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def change_content(source: Path, target: Path, version: int) -> None:
    """Write ``source`` anew with a remark on its version and, where they are not compressed, other pixels."""
    with _rewriting(source, target) as dataset:
        dataset.ImageComments = f"Content version {version}"
        if "PixelData" in dataset and not dataset.file_meta.TransferSyntaxUID.is_compressed:
            pixels = bytearray(dataset.PixelData)
            pixels[0] = (pixels[0] + 1) % 256
            dataset.PixelData = bytes(pixels)


@contextmanager
def _rewriting(source: Path, target: Path) -> Iterator[Dataset]:
    """Read a file and write what became of it, values that are wrong in the original included."""
    # The switch is pydicom's own and for all: two who use it at once would not leave it as it was.
    with _unjudged, pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(source)
        yield dataset
        target.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(target, enforce_file_format=True)


def _replace_uids(dataset: Dataset, uids: Mapping[str, str]) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _replace_uids(item, uids)
        elif element.VR == "UI" and element.value:
            former = [element.value] if isinstance(element.value, str) else element.value
            element.value = [uids.get(uid, uid) for uid in former]

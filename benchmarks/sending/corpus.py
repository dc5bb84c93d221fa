"""The files that `benchmarks/send.py` sends: six classes of instances, the same bytes on every machine."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless

from archsync.core.transfer import OutgoingInstance

_SR, _US, _CR = "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.1"
_CT, _MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
_PLACEHOLDER = "2.25.1000000000000000000"
"""Takes the place of a SOP Instance UID in the template; every real one is as long."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of instances. ``size_bytes`` is that of the pixel data."""

    sop_class_uid: str
    count: int
    size_bytes: int
    transfer_syntax_uid: str = ExplicitVRLittleEndian


KINDS = {
    "ct": Kind(_CT, 1000, 512 * 512 * 2),
    "mr": Kind(_MR, 2000, 256 * 256 * 2),
    "cr": Kind(_CR, 32, 2600 * 2600 * 2),
    "us": Kind(_US, 6, 600 * 800 * 3 * 50),
    "j2k": Kind(_MR, 2000, 105_000, JPEG2000Lossless),
    "sr": Kind(_SR, 3000, 0),
}


def make_corpus(folder: Path, name: str, count: int) -> None:
    """Write ``count`` instances of a kind."""
    template = _template(name, KINDS[name])
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:05}.dcm"
        path.write_bytes(template.replace(_PLACEHOLDER.encode(), _uid(number).encode()))


def describe_corpus(folder: Path, name: str) -> list[OutgoingInstance]:
    """The instances of a kind in a folder, as the platform would describe them."""
    kind = KINDS[name]
    return [
        OutgoingInstance(
            path.stem,
            kind.sop_class_uid,
            _uid(int(path.stem)),
            kind.transfer_syntax_uid,
            path.as_uri(),
            size_bytes=path.stat().st_size,
            study_instance_uid="2.25.1",
            series_instance_uid="2.25.2",
        )
        for path in sorted(folder.glob("*.dcm"))
    ]


def _uid(number: int) -> str:
    return f"2.25.{10**18 + number + 1}"


def _template(name: str, kind: Kind) -> bytes:
    data_set = _header(kind)
    if kind.size_bytes:
        noise = random.Random(name).randbytes(kind.size_bytes)
        compressed = kind.transfer_syntax_uid == JPEG2000Lossless
        data_set.PixelData = encapsulate([noise]) if compressed else noise
        data_set["PixelData"].VR = "OB" if compressed or name == "us" else "OW"
        data_set["PixelData"].is_undefined_length = compressed
        data_set.SamplesPerPixel, data_set.PhotometricInterpretation = (
            (3, "RGB") if name == "us" else (1, "MONOCHROME2")
        )
    else:
        data_set.ContentSequence = [_content(number) for number in range(24)]
    buffer = BytesIO()
    data_set.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _header(kind: Kind) -> Dataset:
    """About 110 elements, as scanners write them: sequences and private ones too."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(kind.transfer_syntax_uid)
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID = UID(kind.sop_class_uid)
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID = UID(_PLACEHOLDER)
    data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.1", "2.25.2"
    for keyword, value in _TEXTS.items():
        setattr(data_set, keyword, value)
    data_set.Rows = data_set.Columns = 512
    data_set.BitsAllocated, data_set.BitsStored, data_set.HighBit, data_set.PixelRepresentation = 16, 12, 11, 0
    for keyword in ("ReferencedStudySequence", "ProcedureCodeSequence", "RequestAttributesSequence"):
        setattr(data_set, keyword, [_content(number) for number in range(2)])
    for group in (0x0009, 0x0019, 0x0043):
        block = data_set.private_block(group, f"BENCHMARK {group}", create=True)
        for number in range(20):
            block.add_new(number, "LO", hashlib.sha256(bytes([number])).hexdigest())
    return data_set


def _content(number: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = _CT, f"2.25.{10**15 + number}"
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = f"{113000 + number}", "DCM", f"Meaning {number}"
    return item


_TEXTS = {
    "SpecificCharacterSet": "ISO_IR 100", "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "StudyDate": "20250101",
    "SeriesDate": "20250101", "AcquisitionDate": "20250101", "ContentDate": "20250101", "StudyTime": "120000",
    "SeriesTime": "120000", "AcquisitionTime": "120000", "ContentTime": "120000", "AccessionNumber": "A1",
    "Modality": "CT", "Manufacturer": "BENCHMARK", "InstitutionName": "NOWHERE", "ReferringPhysicianName": "NONE^N",
    "StationName": "STATION", "StudyDescription": "STUDY", "SeriesDescription": "SERIES", "OperatorsName": "NONE^N",
    "ManufacturerModelName": "MODEL", "PatientName": "BENCH^MARK", "PatientID": "BENCH-1", "PatientSex": "O",
    "PatientBirthDate": "19700101", "PatientAge": "055Y", "BodyPartExamined": "HEAD", "SliceThickness": "1.0",
    "KVP": "120", "DeviceSerialNumber": "1", "SoftwareVersions": "1.0", "ProtocolName": "PROTOCOL",
    "PatientPosition": "HFS", "StudyID": "1", "SeriesNumber": "1", "AcquisitionNumber": "1", "InstanceNumber": "1",
    "ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1],
    "WindowCenter": "40", "WindowWidth": "400", "RescaleIntercept": "-1024", "RescaleSlope": "1",
}  # fmt: skip

"""Instances to send in tests: pydicom's bundled files, and any number of random ones."""

from __future__ import annotations

import random
from pathlib import Path

from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)
from pynetdicom.dsutils import split_dataset

from archsync.core.transfer import OutgoingInstance

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PUBLIC_AND_PRIVATE = (0x0008, 0x0018, 0x0020, 0x0028, 0x0040, 0x7005)
_SYNTAXES = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit, JPEG2000Lossless,
)  # fmt: skip
_EDGES = (4090, 16378, 28666, 131066)
"""What a PDU carries at the usual maximum lengths: data sets that end near one are those that go wrong."""


def bundled_instances() -> dict[str, OutgoingInstance]:
    """The bundled files that hold what a C-STORE needs, one for each SOP Instance UID. Some are cut short, or lie."""
    found = {}
    for name in sorted(map(str, get_testdata_files("**/*.dcm"))):
        try:
            header = dcmread(name, stop_before_pixels=True)
            uid, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
            syntax = str(header.file_meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001 - broken on purpose
            continue
        found[uid] = OutgoingInstance(
            name, sop_class, uid, syntax, Path(name).as_uri(),
            study_instance_uid=header.get("StudyInstanceUID"), series_instance_uid=header.get("SeriesInstanceUID"),
        )  # fmt: skip
    return found


def random_instances(folder: Path, count: int) -> dict[str, OutgoingInstance]:
    """So many instances in all kinds of transfer syntax, with pixel data of any length; always the same ones."""
    found = {}
    for number in range(count):
        dice = random.Random(number)
        data_set = random_data_set(dice, groups=(0x7005,))
        syntax = _SYNTAXES[number % len(_SYNTAXES)]
        data_set.SOPClassUID, data_set.SOPInstanceUID = SECONDARY_CAPTURE, f"2.25.{10**9 + number}"
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = "2.25.1", "2.25.2"
        data_set.PatientName, data_set.PatientID, data_set.StudyID = "A^B", "P", "1"
        data_set.Rows, data_set.Columns, data_set.SamplesPerPixel = 1, 1, 1
        data_set.BitsAllocated = data_set.BitsStored = 8
        data_set.HighBit, data_set.PixelRepresentation, data_set.PhotometricInterpretation = 7, 0, "MONOCHROME2"
        size = dice.choice([2 * dice.randrange(1, 3000), dice.choice(_EDGES) * dice.randrange(1, 4)])
        noise = dice.randbytes(size)
        data_set.PixelData = encapsulate([noise]) if syntax.is_compressed and not syntax.is_deflated else noise
        data_set["PixelData"].VR = "OB"
        data_set["PixelData"].is_undefined_length = syntax.is_encapsulated
        data_set.file_meta = FileMetaDataset()
        data_set.file_meta.TransferSyntaxUID = syntax
        data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
        data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
        path = folder / f"{number:04}.dcm"
        data_set.save_as(path, enforce_file_format=True)
        found[data_set.SOPInstanceUID] = OutgoingInstance(
            str(path), SECONDARY_CAPTURE, data_set.SOPInstanceUID, syntax, path.as_uri()
        )
    return found


def random_data_set(dice: random.Random, depth: int = 0, *, groups: tuple[int, ...] = PUBLIC_AND_PRIVATE) -> Dataset:
    """Texts, numbers, nested sequences of both kinds of length, private elements."""
    data_set = Dataset()
    for _ in range(dice.randrange(1, 12)):
        group, element = dice.choice(groups), dice.randrange(0x1000, 0x10FF)
        kind = dice.choice(["LO", "UT", "US", "OB", "UN", "SQ", "FD"])
        if kind == "UN":
            group = 0x7005  # a known element would become what it is
        value = {
            "LO": "x" * dice.randrange(60), "UT": "y" * dice.randrange(9000), "US": dice.randrange(0xFFFF),
            "OB": bytes(2 * dice.randrange(200)), "UN": bytes(2 * dice.randrange(50)), "FD": dice.random(),
            "SQ": [random_data_set(dice, depth + 1, groups=groups) for _ in range(dice.randrange(3))]
            if depth < 3 else [],
        }[kind]  # fmt: skip
        data_set.add_new(group << 16 | element, kind, value)
        if kind == "SQ":
            data_set[group, element].is_undefined_length = dice.random() < 0.5
            for item in data_set[group, element].value:
                item.is_undefined_length_sequence_item = dice.random() < 0.5
    return data_set


def data_set_bytes(path: Path | str) -> bytes:
    """The data set as it lies in the file, cut out by pynetdicom rather than by our own reader.

    An odd one (deflated, unpadded) gets the byte that makes it even.
    """
    path = Path(path)
    data_set = path.read_bytes()[split_dataset(path)[1] :]
    return data_set + b"\0" * (len(data_set) % 2)

"""Re-encodes a data set for a peer that does not take the transfer syntax it is stored in; never loses information.

The SOP Instance UID stays: PS3.3 calls for a new one only when pixels change, and lossless decompression changes none.
Attributes that tell of an earlier lossy compression stay too.
"""

from __future__ import annotations

import warnings

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID

from archsync.errors import InvalidInput
from archsync.net.dicom.part10 import EXPLICIT_BIG, IMPLICIT_LITTLE, FileFacts

_WORD_BYTES = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}


def uid_name(uid: str) -> str:
    """A transfer syntax or SOP class by name and UID."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"


def reencode(facts: FileFacts, target_syntax_uid: str) -> bytes:
    """The file's data set in Explicit or Implicit VR Little Endian.

    Raises:
        InvalidInput: ``transfer-syntax-not-accepted``: no codec here decodes it, or the data set can't be re-encoded.
    """
    try:
        # Odd values go out as they are; warnings about them would quote them.
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data_set = dcmread(facts.path, force=True)
            if "TransferSyntaxUID" not in data_set.file_meta:
                data_set.file_meta = FileMetaDataset()
                data_set.file_meta.TransferSyntaxUID = UID(facts.transfer_syntax_uid)
            if UID(facts.transfer_syntax_uid).is_encapsulated:
                data_set.decompress(generate_instance_uid=False)
            elif facts.transfer_syntax_uid == EXPLICIT_BIG:
                _swap_words(data_set)
            return _encode(data_set, target_syntax_uid)
    except Exception as exc:  # pydicom and the codecs raise nearly anything on data they can't handle
        raise InvalidInput(
            f"the archive does not take {uid_name(facts.transfer_syntax_uid)}, and the instance can't be turned "
            f"into {uid_name(target_syntax_uid)} here ({type(exc).__name__})",
            code="transfer-syntax-not-accepted",
            next_step="Enable the transfer syntax at the archive, then retry the job.",
        ) from exc


def _encode(data_set: Dataset, syntax_uid: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = syntax_uid == IMPLICIT_LITTLE
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def _swap_words(data_set: Dataset) -> None:
    """Turn the words of big endian binary values round, which pydicom leaves as they are (PS3.5 7.3)."""
    cell_bytes = int(data_set.get("BitsAllocated") or 16) // 8
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value or ():
                _swap_words(item)
        elif element.VR in _WORD_BYTES and isinstance(element.value, bytes):
            size = _WORD_BYTES[element.VR]
            if element.keyword == "PixelData" and element.VR == "OW":
                size = max(size, cell_bytes)  # cells of 32 or 64 bits are turned as a whole
            element.value = _swapped(element.value, size)


def _swapped(value: bytes, size: int) -> bytes:
    swapped = bytearray(len(value))
    for place in range(size):
        swapped[place::size] = value[size - 1 - place :: size]
    return bytes(swapped)

"""Writes corrected copies of instances: replacements under new UIDs for archives that hold the old ones (IHE RAD-74),
and copies that keep their UID and get the patient and study that the platform gives by now.

Everything before the pixels is decoded, corrected and encoded anew; from the first of (7FE0,0008), (7FE0,0009) and
(7FE0,0010) on, the source's bytes are copied, header included, so pixels stay as they are bit for bit, in any transfer
syntax, and memory does not grow with them. Only a deflated data set is inflated in memory as a whole. Digital
signatures behind the pixels are copied too; they no longer verify, which is the truth.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom.config import disable_value_validation
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_data_element, write_file_meta_info
from pydicom.uid import UID
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

from archsync.core.fitting import Modification, RequestAttributes
from archsync.core.study import Patient, Study
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.errors import InvalidInput
from archsync.net.dicom.character_sets import suit_character_set
from archsync.net.dicom.part10 import DEFLATED_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE, FileFacts, read_facts
from archsync.net.dicom.references import rewrite_references
from archsync.net.dicom.replacement_attributes import (
    ModificationReason,
    put_values,
    record_originals,
    snapshot,
    target_values,
    texts_of,
)

_BULK = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_CHUNK_BYTES = 1 << 20
IMPLEMENTATION_CLASS_UID = "2.25.126309273098146927361924061573210948217"
IMPLEMENTATION_VERSION_NAME = "ARCHSYNC"


@dataclass(frozen=True, slots=True)
class WrittenReplacement:
    """What was written. ``left`` names the attributes that hold an old UID in a place where none can be replaced."""

    uids: InstanceUids
    sop_class_uid: str
    transfer_syntax_uid: str
    size_bytes: int
    became_unicode: bool
    left: tuple[str, ...] = ()


def write_replacement(
    source: Path,
    target: Path | BinaryIO,
    *,
    sop_instance_uid: str,
    uids: InstanceUids,
    uid_map: UidMap,
    study: Study,
    patient: Patient,
    modification: Modification,
    request: RequestAttributes | None = None,
) -> WrittenReplacement:
    """Write the corrected copy of the file of instance ``sop_instance_uid``. Same arguments, same bytes.

    ``uids`` are the copy's own; ``uid_map`` leads from UIDs that stand *in the file* to those it shall refer to. The
    reason on record is CORRECT when the copy gets another SOP Instance UID, and COERCE when it keeps it. ``study`` and
    ``patient`` give the attributes of those levels (``docs/replacements.md`` says which). A target path appears when
    the file is whole; a stream may be left with half a file when this raises. Text stays in the source's character set
    if that can say the new values; otherwise all of it becomes ISO_IR 192.

    Raises:
        InvalidInput: ``file-unreadable``, ``file-not-dicom``, ``file-truncated``, ``file-changed``, ``uid-mismatch``
            (the file holds another instance), ``uid-not-mapped`` (the map gives this instance other UIDs), or
            ``text-not-encodable``.
        OSError: the target can't be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        facts = read_facts(source, sop_instance_uid=sop_instance_uid)
    reason = _reason(facts, sop_instance_uid, uids, uid_map)
    with _open_body(facts) as body:
        try:
            # Odd values of the source go through as they are; warnings about them would quote them.
            with disable_value_validation(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = _read_header(body, facts)
                values = target_values(header, study, patient, uids, request)
                news = [*texts_of(values), modification.modifying_system, modification.source_of_previous_values]
                became_unicode = suit_character_set(header, news)
                before = snapshot(header, values)
                report = rewrite_references(header, uid_map, own=uids)
                put_values(header, values)
                record_originals(header, before, modification, reason)
                encoded = _encode_header(header)
        except InvalidInput as exc:
            raise InvalidInput(
                f"instance {sop_instance_uid}: {exc.message}", code=exc.code, next_step=exc.next_step
            ) from None
        except Exception as exc:  # noqa: BLE001 - pydicom raises nearly anything on data sets it can't handle
            raise _not_dicom(
                facts, f"its data set can't be decoded: {type(exc).__name__}"
            ) from None  # may quote values
        with _open_target(target) as stream:
            size_bytes = _write(stream, body, facts, uids, encoded)
    return WrittenReplacement(
        uids, facts.sop_class_uid, facts.transfer_syntax_uid, size_bytes, became_unicode, tuple(report.left)
    )


def _reason(facts: FileFacts, sop_instance_uid: str, uids: InstanceUids, uid_map: UidMap) -> ModificationReason:
    """Why the copy is made. An instance that the map does not know can only keep its UID."""
    if facts.sop_instance_uid != sop_instance_uid:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file holds instance {facts.sop_instance_uid}", code="uid-mismatch"
        )
    mapped = uid_map.find_instance(sop_instance_uid)
    if uids.sop_instance_uid != (mapped.sop_instance_uid if mapped else sop_instance_uid):
        raise InvalidInput(
            f"instance {sop_instance_uid}: {uids.sop_instance_uid} is not the UID that is mapped to it",
            code="uid-not-mapped",
            next_step="Report this with the job number; it is a fault in archsync. Nothing was sent.",
        )
    return ModificationReason.COERCE if uids.sop_instance_uid == sop_instance_uid else ModificationReason.CORRECT


# Reading


@contextlib.contextmanager
def _open_body(facts: FileFacts) -> Iterator[BinaryIO]:
    """The data set as a stream, at its beginning."""
    try:
        stream = open(facts.path, "rb")  # noqa: SIM115, PTH123 - closed below; paths are text here
    except OSError as exc:
        raise _unreadable(facts, exc) from None
    with stream:
        stream.seek(facts.data_set_offset)
        if facts.transfer_syntax_uid != DEFLATED_LITTLE:
            yield stream
            return
        try:
            inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read())  # a raw stream, PS3.5 A.5
        except OSError as exc:
            raise _unreadable(facts, exc) from None
        yield BytesIO(inflated)


def _read_header(body: BinaryIO, facts: FileFacts) -> Dataset:
    """The data set up to the pixels, or all of it; leaves the stream where the bytes to copy begin."""
    header = read_dataset(
        body,
        is_implicit_VR=facts.transfer_syntax_uid == IMPLICIT_LITTLE,
        is_little_endian=facts.transfer_syntax_uid != EXPLICIT_BIG,
        stop_when=lambda tag, _vr, _length: tag in _BULK,
    )
    position = body.tell()
    order = ">HH" if facts.transfer_syntax_uid == EXPLICIT_BIG else "<HH"
    head = body.read(4)
    if head and (len(head) < 4 or _tag(*struct.unpack(order, head)) not in _BULK):
        raise _not_dicom(facts, "it can't be decoded up to its pixels")
    body.seek(position)
    for raw in header.values():
        if isinstance(raw, RawDataElement) and raw.length != 0xFFFFFFFF and len(raw.value or b"") != raw.length:
            raise InvalidInput("its file is cut short", code="file-truncated")
    for tag in [element.tag for element in header.values() if element.tag.group < 8]:
        del header[tag]  # zeros behind the last element, or meta information astray
    # The walk over the whole file must have met the UIDs where they belong, before the pixels.
    found = (header.get("SOPClassUID"), header.get("SOPInstanceUID"), header.get("StudyInstanceUID") or "")
    if tuple(map(str, found)) != (facts.sop_class_uid, facts.sop_instance_uid, facts.study_instance_uid):
        raise _not_dicom(facts, "its elements are not in order")
    return header


def _tag(group: int, element: int) -> int:
    return group << 16 | element


def _not_dicom(facts: FileFacts, problem: str) -> InvalidInput:
    return InvalidInput(
        f"instance {facts.sop_instance_uid}: its file can't be corrected ({problem})", code="file-not-dicom"
    )


def _unreadable(facts: FileFacts, exc: OSError) -> InvalidInput:
    return InvalidInput(
        f"instance {facts.sop_instance_uid}: its file can't be read ({exc.strerror})", code="file-unreadable"
    )


# Writing


def _encode_header(header: Dataset) -> bytes:
    """The elements before the pixels in the encoding they were read in; retired group lengths are left out.

    Elements that nobody looked at go out as they came, which also saves most of pydicom's time.
    """
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = is_implicit, is_little = header.original_encoding
    order = "<" if is_little else ">"
    character_sets = header.get("SpecificCharacterSet")
    for element in sorted(header.values(), key=lambda element: element.tag):
        if element.tag.element == 0:
            continue
        raw = _encode_raw(element, order, is_implicit=is_implicit) if isinstance(element, RawDataElement) else None
        if raw is None:
            write_data_element(buffer, header[element.tag], character_sets)
        else:
            buffer.write(raw)
    return buffer.getvalue()


def _encode_raw(raw: RawDataElement, order: str, *, is_implicit: bool) -> bytes | None:
    """An element as it was read; None for one of undefined length or without the VR it should have."""
    value = raw.value or b""
    group, number = raw.tag.group, raw.tag.element
    if raw.length == 0xFFFFFFFF or raw.is_implicit_VR != is_implicit or (raw.VR is None and not is_implicit):
        return None
    if is_implicit:
        return struct.pack(f"{order}HHL", group, number, len(value)) + value
    if raw.VR in EXPLICIT_VR_LENGTH_32:
        return struct.pack(f"{order}HH2sHL", group, number, raw.VR.encode(), 0, len(value)) + value
    return struct.pack(f"{order}HH2sH", group, number, raw.VR.encode(), len(value)) + value


def _encode_meta(facts: FileFacts, uids: InstanceUids) -> bytes:
    """Preamble and meta information. The source's own preamble may hold offsets (TIFF) that are no longer true."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(facts.sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(uids.sop_instance_uid)
    meta.TransferSyntaxUID = UID(facts.transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    head = BytesIO()
    write_file_meta_info(head, meta)
    return b"\x00" * 128 + b"DICM" + head.getvalue()


@contextlib.contextmanager
def _open_target(target: Path | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(target, Path):
        yield target
        return
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as stream:
            yield stream
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _write(stream: BinaryIO, body: BinaryIO, facts: FileFacts, uids: InstanceUids, encoded: bytes) -> int:
    """Write the file; gives its size in bytes."""
    meta = _encode_meta(facts, uids)
    stream.write(meta)
    if facts.transfer_syntax_uid == DEFLATED_LITTLE:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        deflated = deflater.compress(encoded) + deflater.compress(body.read()) + deflater.flush()
        deflated += b"\0" * (len(deflated) % 2)  # PS3.5 A.5
        stream.write(deflated)
        return len(meta) + len(deflated)
    stream.write(encoded)
    copied = _copy(stream, body, facts)
    return len(meta) + len(encoded) + copied


def _copy(stream: BinaryIO, body: BinaryIO, facts: FileFacts) -> int:
    """Copy the rest of the source, as long as it was when it was looked at; gives the number of bytes."""
    count = left = facts.size_bytes - body.tell()
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    while left > 0:
        try:
            got = body.readinto(chunk[:left])  # type: ignore[attr-defined]
        except OSError as exc:
            raise _unreadable(facts, exc) from None
        if not got:
            break
        stream.write(chunk[:got])
        left -= got
    if left or not facts.is_unchanged:
        raise InvalidInput(
            f"instance {facts.sop_instance_uid}: its file changed while it was being read", code="file-changed"
        )
    return count

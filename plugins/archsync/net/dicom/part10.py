"""Reads what a DICOM file says about itself, without loading its pixels, and proves that it is complete.

The walk goes over every top-level element header to the end of the file, skipping values, so a file cut short in the
middle of its pixel data is found before anything is sent. Layout: PS3.10 chapter 7 (file meta), PS3.5 chapter 7
(elements), PS3.5 A.4 (encapsulated pixel data).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from archsync.errors import InvalidInput
from archsync.net.dicom.inflated import CutShort, open_inflated
from archsync.net.dicom.patient_header import PatientHeader

IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
DEFLATED_LITTLE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
     b"ST", b"TM", b"UI", b"UL", b"US"}
)  # fmt: skip
MAX_DEPTH = 50

META_SOP_INSTANCE, META_SYNTAX = 0x00020003, 0x00020010
SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
CHARACTER_SET, NAME, PATIENT_ID, ISSUER = 0x00080005, 0x00100010, 0x00100020, 0x00100021
BIRTH_DATE, SEX = 0x00100030, 0x00100040
WANTED = frozenset({CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, NAME, PATIENT_ID, ISSUER, BIRTH_DATE, SEX, STUDY, SERIES})
MAX_WANTED_BYTES = 4096
"""More than any value of the wanted ones may have, so longer ones are not what they should be."""

# Samples per Pixel belongs to the Image Pixel modules, which end in pixel data of one kind or a URL to them.
SAMPLES_PER_PIXEL = 0x00280002
PIXELS = frozenset({0x7FE00010, 0x7FE00008, 0x7FE00009, 0x00287FE0})


class FileFacts(NamedTuple):
    """What a file holds. ``data_set_offset`` is where the data set begins, after the file meta information."""

    path: str
    size_bytes: int
    modified_ns: int
    data_set_offset: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    meta_sop_instance_uid: str | None
    patient: PatientHeader

    @property
    def data_set_bytes(self) -> int:
        """Length of the data set as stored."""
        return self.size_bytes - self.data_set_offset

    @property
    def is_unchanged(self) -> bool:
        """True while the file has the size and modification time it was read with."""
        try:
            now = os.stat(self.path)  # noqa: PTH116 - asked for each instance sent, and a third faster
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) == (self.size_bytes, self.modified_ns)


class _Truncated(Exception):
    """The file ends inside an element."""


class _Malformed(Exception):
    """The bytes are not elements as this reader knows them."""


def read_facts(path: Path | str, *, sop_instance_uid: str) -> FileFacts:
    """Read the facts of the file of instance ``sop_instance_uid`` (as the platform calls it, for the messages).

    A file without preamble or meta information is read too, as pydicom does.

    Raises:
        InvalidInput: ``file-unreadable``, ``file-not-dicom`` or ``file-truncated``.
    """
    try:
        with Path(path).open("rb") as stream:
            return _read(str(path), stream)
    except OSError as exc:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file can't be read ({exc.strerror})", code="file-unreadable"
        ) from None  # the cause names the path, which may hold a patient's name
    except _Truncated as exc:
        raise InvalidInput(f"instance {sop_instance_uid}: its file is cut short", code="file-truncated") from exc
    except _Malformed as exc:
        raise InvalidInput(
            f"instance {sop_instance_uid}: its file is not a DICOM file that can be sent ({exc})",
            code="file-not-dicom",
        ) from exc


def _read(path: str, stream: BinaryIO) -> FileFacts:
    status = os.fstat(stream.fileno())
    size = status.st_size
    start = _find_start(stream)
    meta = _read_meta(stream, start, size)
    offset = stream.tell()
    syntax = _uid(meta, META_SYNTAX) or _guess_syntax(stream, offset)
    values: dict[int, bytes] = {}
    try:
        if syntax == DEFLATED_LITTLE:
            inflated = open_inflated(stream, offset)
            inflated_size = inflated.seek(0, io.SEEK_END)
            inflated.seek(0)
            walker = _Walker(inflated, inflated_size, EXPLICIT_LITTLE, values)
        else:
            walker = _Walker(stream, size, syntax, values)
        walker.walk()
    except CutShort as exc:
        raise _Truncated from exc
    except zlib.error as exc:
        raise _Malformed("its deflated data set can't be inflated") from exc
    except _Malformed:
        values = _read_with_pydicom(path)
    missing = [name for tag, name in ((SOP_CLASS, "SOP Class UID"), (SOP_INSTANCE, "SOP Instance UID"))
               if not _uid(values, tag)]  # fmt: skip
    if missing:
        raise _Malformed(f"it has no {' and no '.join(missing)}")
    return FileFacts(
        path=path,
        size_bytes=size,
        modified_ns=status.st_mtime_ns,
        data_set_offset=offset,
        transfer_syntax_uid=syntax,
        sop_class_uid=_uid(values, SOP_CLASS),
        sop_instance_uid=_uid(values, SOP_INSTANCE),
        study_instance_uid=_uid(values, STUDY),
        series_instance_uid=_uid(values, SERIES),
        meta_sop_instance_uid=_uid(meta, META_SOP_INSTANCE) if META_SOP_INSTANCE in meta else None,
        patient=PatientHeader(
            character_set=values.get(CHARACTER_SET, b""),
            name=values.get(NAME, b""),
            patient_id=values.get(PATIENT_ID, b""),
            issuer_of_patient_id=values.get(ISSUER, b""),
            birth_date=values.get(BIRTH_DATE, b""),
            sex=values.get(SEX, b""),
        ),
    )


def _uid(values: dict[int, bytes], tag: int) -> str:
    return values.get(tag, b"").decode("ascii", "replace").strip("\0 ")


def _find_start(stream: BinaryIO) -> int:
    """Offset of the first element: after preamble and prefix, or 0 for files that lack them."""
    head = stream.read(132)
    if not head:
        raise _Malformed("it is empty")
    if head[128:] == b"DICM":
        return 132
    if len(head) >= 8 and head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x08"):
        return 0
    raise _Malformed("it has neither the DICM prefix nor a data set at its beginning")


def _read_meta(stream: BinaryIO, start: int, size: int) -> dict[int, bytes]:
    """Values of the file meta information (always explicit VR little endian); leaves the stream at the data set."""
    values: dict[int, bytes] = {}
    walker = _Walker(stream, size, EXPLICIT_LITTLE, values, wanted=frozenset({META_SOP_INSTANCE, META_SYNTAX}))
    stream.seek(start)
    while True:
        position = stream.tell()
        head = stream.read(2)
        stream.seek(position)
        if head != b"\x02\x00":
            return values
        walker.step()


def _guess_syntax(stream: BinaryIO, offset: int) -> str:
    """The uncompressed syntax that the first element of the data set is written in."""
    head = stream.read(6)
    stream.seek(offset)
    if head[4:6] not in LONG_VRS | SHORT_VRS:
        return IMPLICIT_LITTLE
    return EXPLICIT_BIG if head[:2] == b"\x00\x08" else EXPLICIT_LITTLE


def _read_with_pydicom(path: str) -> dict[int, bytes]:
    """The wanted values by pydicom's tolerant reading, for files with faults that archives put up with."""
    try:
        data_set = dcmread(path, force=True, defer_size=4096, specific_tags=sorted(WANTED))
    except (InvalidDicomError, OSError, ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as exc:
        raise _Malformed("its data set can't be decoded") from exc
    values = {tag: data_set.get_item(tag).value for tag in WANTED if tag in data_set}
    names = values.get(CHARACTER_SET) or b""  # the one that pydicom decodes by itself
    if not isinstance(names, bytes):
        values[CHARACTER_SET] = "\\".join([names] if isinstance(names, str) else map(str, names)).encode()
    return {tag: value for tag, value in values.items() if isinstance(value, bytes)}


class _Walker:
    """Steps over data elements; keeps the values of the wanted top-level ones."""

    def __init__(
        self, stream: BinaryIO, size: int, syntax: str, values: dict[int, bytes], *, wanted: frozenset[int] = WANTED
    ) -> None:
        self._stream = stream
        self._size = size
        self._order = ">" if syntax == EXPLICIT_BIG else "<"
        self._implicit = syntax == IMPLICIT_LITTLE
        self._values = values
        self._wanted = wanted
        self._marks: set[int] = set()
        self._head = struct.Struct(self._order + "HH")
        self._long = struct.Struct(self._order + "L")
        self._short = struct.Struct(self._order + "H")

    def walk(self) -> None:
        """Step over all elements up to the end of the stream; an image must have come to its pixels by then."""
        while self._stream.tell() < self._size:
            self.step()
        if SAMPLES_PER_PIXEL in self._marks and not self._marks & PIXELS:
            raise _Truncated

    def step(self) -> None:
        """Step over one top-level element."""
        tag, vr, length = self._read_header()
        if tag == SAMPLES_PER_PIXEL or tag in PIXELS:
            self._marks.add(tag)
        if tag in self._wanted and length <= MAX_WANTED_BYTES:
            self._values[tag] = self._read(length)
        else:
            self._skip_value(tag, vr, length, self._implicit, 0)

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise _Truncated
        return data

    def _skip(self, count: int) -> None:
        if self._stream.seek(count, io.SEEK_CUR) > self._size:
            raise _Truncated

    def _read_header(self, implicit: bool | None = None) -> tuple[int, bytes, int]:
        head = self._read(8)
        group, element = self._head.unpack_from(head)
        tag = group << 16 | element
        if group == 0xFFFE or (self._implicit if implicit is None else implicit):
            return tag, b"", self._long.unpack_from(head, 4)[0]
        vr = head[4:6]
        if vr in SHORT_VRS:
            return tag, vr, self._short.unpack_from(head, 6)[0]
        if vr in LONG_VRS:
            return tag, vr, self._long.unpack(self._read(4))[0]
        raise _Malformed(f"element ({group:04X},{element:04X}) has no value representation")

    def _skip_value(self, tag: int, vr: bytes, length: int, implicit: bool, depth: int) -> None:
        if tag >> 16 == 0xFFFE:
            raise _Malformed("an item stands outside a sequence")
        if length != UNDEFINED:
            self._skip(length)
        elif vr in (b"OB", b"OW") or tag == 0x7FE00010:
            self._skip_fragments()
        else:
            # UN of undefined length is a sequence in implicit VR (PS3.5 6.2.2)
            self._skip_items(implicit or vr == b"UN", depth)

    def _skip_fragments(self) -> None:
        while True:
            tag, _, length = self._read_header()
            if tag == SEQUENCE_END:
                return
            if tag != ITEM or length == UNDEFINED:
                raise _Malformed("its encapsulated pixel data are not a list of fragments")
            self._skip(length)

    def _skip_items(self, implicit: bool, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _Malformed("its sequences are nested too deeply")
        while True:
            tag, _, length = self._read_header(implicit)
            if tag == SEQUENCE_END:
                return
            if tag != ITEM:
                raise _Malformed("a sequence holds something other than items")
            if length != UNDEFINED:
                self._skip(length)
                continue
            while True:
                tag, vr, length = self._read_header(implicit)
                if tag == ITEM_END:
                    break
                self._skip_value(tag, vr, length, implicit, depth + 1)

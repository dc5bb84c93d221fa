"""Re-encodes a data set for a peer that does not take the transfer syntax it is stored in; never loses information.

What comes out is a stream: large values are copied piece by piece, compressed pixels decoded frame by frame, so memory
does not grow with the instance. Nothing here knows the process it runs in; see ``reencoder.py``.

The SOP Instance UID stays: PS3.3 calls for a new one only when pixels change, and lossless decompression changes none.
Attributes that tell of an earlier lossy compression stay too.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import correct_ambiguous_vr, write_data_element
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID

from archsync.net.dicom.inflated import open_inflated
from archsync.net.dicom.part10 import DEFLATED_LITTLE, EXPLICIT_BIG, IMPLICIT_LITTLE, LONG_VRS

_LARGE_BYTES = 1 << 18
"""Longer values are copied piece by piece; shorter ones are pydicom's."""
_PIECE_BYTES = 1 << 18

_PIXEL_DATA = 0x7FE00010
_PIXEL_DATA_BYTES = b"\xe0\x7f\x10\x00"
_OFFSET_TABLES = (0x7FE00001, 0x7FE00002, 0x7FE00003)
"""Of the fragments of encapsulated pixel data; without these, they mean nothing."""
_UNDEFINED = 0xFFFFFFFF

_WORD_BYTES = {
    **dict.fromkeys(("OW", "US", "SS", "AT"), 2),
    **dict.fromkeys(("OL", "OF", "UL", "SL", "FL"), 4),
    **dict.fromkeys(("OD", "OV", "FD", "UV", "SV"), 8),
}
_OTHER_WORDS = ("OW", "OL", "OF", "OD", "OV")
"""What pydicom leaves in the byte order it was read in."""


class NotReencodable(Exception):
    """The data set can't be turned into the other transfer syntax; the message says why, without values."""


@dataclass(frozen=True, slots=True)
class Reencoded:
    """A data set in its new transfer syntax: how long it is, and its bytes, made while they are taken.

    Taking them raises NotReencodable when that becomes impossible half way.
    """

    size_bytes: int
    pieces: Iterator[bytes]


def reencode(stream: BinaryIO, offset: int, syntax_uid: str, target_syntax_uid: str) -> Reencoded:
    """The data set that begins at ``offset``, in Explicit or Implicit VR Little Endian.

    Raises:
        NotReencodable: no codec here decodes it, or it can't be re-encoded.
    """
    with _as_not_reencodable():
        parts = _plan(stream, offset, syntax_uid, implicit=target_syntax_uid == IMPLICIT_LITTLE)
    return Reencoded(sum(part.size_bytes for part in parts), _pieces_of(parts))


@contextmanager
def _as_not_reencodable() -> Iterator[None]:
    # Odd values go out as they are; warnings about them would quote them.
    try:
        with disable_value_validation(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except NotReencodable:
        raise
    except Exception as exc:  # pydicom and the codecs raise nearly anything on data they can't handle
        raise NotReencodable(type(exc).__name__) from exc


@dataclass(frozen=True, slots=True)
class _Part:
    """Some bytes of the result."""

    size_bytes: int
    pieces: Iterator[bytes]


def _pieces_of(parts: list[_Part]) -> Iterator[bytes]:
    for part in parts:
        left = part.size_bytes
        with _as_not_reencodable():
            for piece in part.pieces:
                left -= len(piece)
                if left < 0:
                    raise NotReencodable("more data than announced")
                yield piece
        if left:
            raise NotReencodable("fewer data than announced")


def _plan(stream: BinaryIO, offset: int, syntax_uid: str, *, implicit: bool) -> list[_Part]:
    if syntax_uid == DEFLATED_LITTLE:
        stream, offset = open_inflated(stream, offset), 0
    stream.seek(offset)
    data_set = read_dataset(stream, syntax_uid == IMPLICIT_LITTLE, syntax_uid != EXPLICIT_BIG, defer_size=_LARGE_BYTES)
    writer = _Writer(data_set, implicit=implicit)
    large = _take_large(stream, data_set)
    pixels = None
    if UID(syntax_uid).is_encapsulated:
        if _PIXEL_DATA not in large:
            raise NotReencodable("no pixel data")
        pixels = _decoded_pixels(stream, data_set, large[_PIXEL_DATA], syntax_uid)
        _decompress_icons(data_set, syntax_uid)
    elif syntax_uid == EXPLICIT_BIG:
        _swap_words(data_set)
    if writer.changes_encoding:
        correct_ambiguous_vr(data_set, True)
    for tag in sorted({*data_set.keys(), *large}):
        if tag == _PIXEL_DATA and pixels:
            writer.add_large(tag, "OW" if int(data_set.BitsAllocated) > 8 else "OB", pixels)
        elif tag in large:
            writer.add_large(tag, _vr_of(large[tag]), _copied(stream, large[tag], data_set))
        elif tag & 0xFFFF or tag >> 16 <= 6:  # but the retired group lengths (PS3.5 7.2)
            writer.add(tag)
    return writer.finish()


class _Writer:
    """Collects elements, the small ones encoded, the large ones to be read later."""

    def __init__(self, data_set: Dataset, *, implicit: bool) -> None:
        self._data_set = data_set
        self._implicit = implicit
        self.changes_encoding = data_set.original_encoding != (implicit, True)
        self._parts: list[_Part] = []
        self._encoded = self._new_stream()

    def _new_stream(self) -> DicomBytesIO:
        stream = DicomBytesIO()
        stream.is_little_endian = True
        stream.is_implicit_VR = self._implicit
        return stream

    def add(self, tag: int) -> None:
        # What was not looked at is still as it was read, and goes out so where its encoding stays.
        element = self._data_set[tag] if self.changes_encoding else self._data_set.get_item(tag)
        write_data_element(self._encoded, element, self._data_set.get("SpecificCharacterSet", "iso8859"))

    def add_large(self, tag: int, vr: str, value: _Part) -> None:
        padding = value.size_bytes % 2
        length = value.size_bytes + padding
        if length >= _UNDEFINED:
            raise NotReencodable("pixel data longer than DICOM allows uncompressed")
        self._encoded.write(struct.pack("<HH", tag >> 16, tag & 0xFFFF))
        if not self._implicit:
            # PS3.5 6.2.2: what is too long for its VR becomes UN
            self._encoded.write((vr if vr.encode() in LONG_VRS else "UN").encode() + b"\0\0")
        self._encoded.write(struct.pack("<L", length))
        self._flush()
        self._parts.append(_Part(length, chain(value.pieces, [b"\0"] * padding)))

    def finish(self) -> list[_Part]:
        self._flush()
        return self._parts

    def _flush(self) -> None:
        if encoded := self._encoded.getvalue():
            self._parts.append(_Part(len(encoded), iter([encoded])))
            self._encoded = self._new_stream()


# -- large values ----------------------------------------------------------------------------------------------------


def _take_large(stream: BinaryIO, data_set: Dataset) -> dict[int, RawDataElement]:
    """Take the values out that pydicom has left in the stream, and pixel data in any case; sequences are read."""
    large = {}
    for tag in list(data_set.keys()):
        element = data_set.get_item(tag, keep_deferred=True)
        if not isinstance(element, RawDataElement):
            continue
        if tag == _PIXEL_DATA:
            large[int(tag)] = element
            del data_set[tag]
        elif element.value is None and element.length > _LARGE_BYTES:
            if _dictionary_vr(element) == "SQ":
                stream.seek(element.value_tell)
                data_set._dict[tag] = element._replace(value=stream.read(element.length))
            else:
                large[int(tag)] = element
                del data_set[tag]
    return large


def _dictionary_vr(element: RawDataElement) -> str:
    if element.VR:
        return str(element.VR)
    try:
        return str(dictionary_VR(element.tag))
    except KeyError:  # private or unknown
        return "UN"


def _vr_of(element: RawDataElement) -> str:
    vr = _dictionary_vr(element)
    return "OW" if " or " in vr else vr  # pixels, overlays, look-up tables: words in implicit VR (PS3.5 A.1)


def _copied(stream: BinaryIO, element: RawDataElement, data_set: Dataset) -> _Part:
    """A value as it is, but for the order of bytes."""
    word_bytes = 1
    if not element.is_little_endian:
        word_bytes = _WORD_BYTES.get(_vr_of(element), 1)
        if element.tag == _PIXEL_DATA:
            word_bytes = _cell_bytes(data_set, word_bytes)
    return _Part(element.length, _read_pieces(stream, element.value_tell, element.length, word_bytes))


def _read_pieces(stream: BinaryIO, position: int, left: int, word_bytes: int) -> Iterator[bytes]:
    while left:
        stream.seek(position)
        piece = stream.read(min(left, _PIECE_BYTES))
        if not piece:
            raise NotReencodable("the file ends early")
        position += len(piece)
        left -= len(piece)
        yield piece if word_bytes == 1 else _swapped(piece, word_bytes)


# -- compressed pixels -----------------------------------------------------------------------------------------------


def _decoded_pixels(stream: BinaryIO, data_set: Dataset, element: RawDataElement, syntax_uid: str) -> _Part:
    """Decodes the first frame; the others as they are taken. Has the data set describe what comes out."""
    decoder = get_decoder(UID(syntax_uid))
    stream.seek(element.value_tell)
    options = as_pixel_options(data_set, pixel_keyword="PixelData", pixel_vr="OB")
    frames = decoder.iter_array(stream, as_rgb=True, **options)
    array, properties = next(frames)
    first, next_frame_at = array.tobytes(), stream.tell()
    for tag in _OFFSET_TABLES:
        if tag in data_set:
            del data_set[tag]
    interpretation = properties["photometric_interpretation"]
    data_set.PhotometricInterpretation = interpretation
    if properties["samples_per_pixel"] > 1:
        data_set.PlanarConfiguration = properties["planar_configuration"]
    count = max(1, int(options["number_of_frames"]))

    def rest() -> Iterator[bytes]:
        stream.seek(next_frame_at)  # larger elements may have been copied meanwhile
        for array, properties in frames:
            if properties["photometric_interpretation"] != interpretation:
                raise NotReencodable("frames of several kinds")
            yield array.tobytes()

    return _Part(count * len(first), chain([first], rest()))


def _decompress_icons(data_set: Dataset, syntax_uid: str) -> None:
    """Decompress images within sequences: icons."""
    for tag in list(data_set.keys()):
        element = data_set.get_item(tag)
        if element.VR != "SQ" or (isinstance(element, RawDataElement) and _PIXEL_DATA_BYTES not in element.value):
            continue
        for item in data_set[tag].value or ():
            _decompress_icons(item, syntax_uid)
            if _PIXEL_DATA in item and item["PixelData"].is_undefined_length:
                item.file_meta = FileMetaDataset()
                item.file_meta.TransferSyntaxUID = UID(syntax_uid)
                item.decompress(generate_instance_uid=False)
                del item.file_meta


# -- big endian ------------------------------------------------------------------------------------------------------


def _swap_words(data_set: Dataset) -> None:
    """Turn the words of big endian binary values round, which pydicom leaves as they are (PS3.5 7.3)."""
    for element in data_set:
        if element.VR == "SQ":
            for item in element.value or ():
                _swap_words(item)
        elif element.VR in _OTHER_WORDS and isinstance(element.value, bytes):
            size = _WORD_BYTES[element.VR]
            if element.keyword == "PixelData" and element.VR == "OW":
                size = _cell_bytes(data_set, size)
            element.value = _swapped(element.value, size)


def _cell_bytes(data_set: Dataset, word_bytes: int) -> int:
    """Cells of 32 or 64 bits are turned as a whole."""
    return max(word_bytes, int(data_set.get("BitsAllocated") or 16) // 8) if word_bytes > 1 else 1


def _swapped(value: bytes, size: int) -> bytes:
    swapped = bytearray(len(value))
    for place in range(size):
        swapped[place::size] = value[size - 1 - place :: size]
    return bytes(swapped)

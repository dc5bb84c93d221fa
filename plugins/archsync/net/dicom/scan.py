"""Reads of a well-formed DICOM file what ``part10.py`` reads of any, about ten times faster, and proves it complete.

Walks over all top-level elements like the reader there, in memory, a few KiB at a time. Covers what archives are full
of: preamble, file meta information with its length, little endian, any but the deflated transfer syntax. Anything else,
and any doubt, is left to the slow reader, which also names what is wrong with a file.

The files of a series are alike: the same elements in the same order, and most of the same length. So the headers of
one file are kept as runs of sixteen elements, and where the next file has a run's first tag, all headers of the run are
compared at once. If each stands where it stood, byte by byte, the walk would have gone the same way, and is spared.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from archsync.net.dicom.part10 import (
    BIRTH_DATE,
    CHARACTER_SET,
    DEFLATED_LITTLE,
    EXPLICIT_BIG,
    IMPLICIT_LITTLE,
    ISSUER,
    ITEM,
    ITEM_END,
    LONG_VRS,
    MAX_DEPTH,
    MAX_WANTED_BYTES,
    META_SOP_INSTANCE,
    META_SYNTAX,
    NAME,
    PATIENT_ID,
    PIXELS,
    SAMPLES_PER_PIXEL,
    SEQUENCE_END,
    SERIES,
    SEX,
    SHORT_VRS,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY,
    UNDEFINED,
    WANTED,
    FileFacts,
)
from archsync.net.dicom.patient_header import PatientHeader
from archsync.net.images import OpenFile

_WINDOW_BYTES = 16384
_META_START = 132
_META_SOP_CLASS = 0x00020002
_META_LENGTH = b"\x02\x00\x00\x00UL\x04\x00"
_PIXEL_DATA = 0x7FE00010
_MANY_BYTES_VRS = frozenset({b"OB", b"OW"})

_EXPLICIT = struct.Struct("<HH2sH").unpack_from
_IMPLICIT = struct.Struct("<HHL").unpack_from
_LONG = struct.Struct("<L").unpack_from


# The walk over the top level is where the time goes: there a tag is the number that its four bytes make, and a VR that
# of its two, which Python tells apart faster than tuples and bytes.
_EXPLICIT_KEY = struct.Struct("<LHH").unpack_from
_IMPLICIT_KEY = struct.Struct("<LL").unpack_from
_HEAD = struct.Struct("<Q").unpack_from


def _key(tag: int) -> int:
    return (tag & 0xFFFF) << 16 | tag >> 16


def _numbers(vrs: Iterable[bytes]) -> frozenset[int]:
    return frozenset(int.from_bytes(vr, "little") for vr in vrs)


_WANTED_META = frozenset({_META_SOP_CLASS, META_SOP_INSTANCE, META_SYNTAX})
_NOTED = {_key(tag): tag for tag in WANTED | PIXELS | _WANTED_META | {SAMPLES_PER_PIXEL}}
_PIXEL_DATA_KEY = _key(_PIXEL_DATA)
_SHORT, _LONGER, _MANY_BYTES = _numbers(SHORT_VRS), _numbers(LONG_VRS), _numbers(_MANY_BYTES_VRS)
(_UN,) = _numbers([b"UN"])


class _NotUnderstood(Exception):
    """Left to the slow reader."""


def scan_facts(file: OpenFile) -> FileFacts | None:
    """The facts of an open file, or None when the slow reader has to look. OSError: it can't be read."""
    path, descriptor, status = file
    window = os.pread(descriptor, _WINDOW_BYTES, 0)
    try:
        meta, offset = _scan_meta(window)
        syntax = _shared_uid(meta.get(META_SYNTAX, b""))
        if not syntax or syntax in (DEFLATED_LITTLE, EXPLICIT_BIG):
            return None
        scan = _Scan(descriptor, status.st_size, window, _layout_of(syntax, meta.get(_META_SOP_CLASS, b"")))
        values = scan.top_level(offset, implicit=syntax == IMPLICIT_LITTLE)
    except (_NotUnderstood, struct.error):
        return None
    get = values.get
    sop_class_uid, sop_instance_uid = _shared_uid(get(SOP_CLASS, b"")), _uid(get(SOP_INSTANCE, b""))
    if not sop_class_uid or not sop_instance_uid:
        return None
    return FileFacts(
        path,
        status.st_size,
        status.st_mtime_ns,
        offset,
        syntax,
        sop_class_uid,
        sop_instance_uid,
        _shared_uid(get(STUDY, b"")),
        _shared_uid(get(SERIES, b"")),
        _uid(meta[META_SOP_INSTANCE]) if META_SOP_INSTANCE in meta else None,
        PatientHeader(
            get(CHARACTER_SET, b""),
            get(NAME, b""),
            get(PATIENT_ID, b""),
            get(ISSUER, b""),
            get(BIRTH_DATE, b""),
            get(SEX, b""),
        ),
    )


def _uid(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


_shared_uid = lru_cache(maxsize=256)(_uid)
"""For what the files of a series share."""


def _scan_meta(window: bytes) -> tuple[dict[int, bytes], int]:
    """Values of the file meta information, and where the data set begins (PS3.10 7.1)."""
    if window[128:_META_START] != b"DICM" or window[_META_START : _META_START + 8] != _META_LENGTH:
        raise _NotUnderstood
    position = _META_START + 12
    end = position + _LONG(window, position - 4)[0]
    if end + 2 > len(window) or window[end : end + 2] == b"\x02\x00":
        raise _NotUnderstood
    run = _meta_runs.get(end)
    if run is not None and run.unpack(window, position) == run.expected:
        return {tag: window[position + start : position + stop] for tag, start, stop in run.wanted}, end
    values = {}
    walked: list[_Header] = []
    while position < end:
        group, element, vr, length = _EXPLICIT(window, position)
        start = position
        if vr in SHORT_VRS:
            position += 8
        elif vr in LONG_VRS:
            length = _LONG(window, position + 8)[0]
            position += 12
        else:
            raise _NotUnderstood
        if group != 2 or position + length > end:
            raise _NotUnderstood
        values[group << 16 | element] = window[position : position + length]
        more = length if position - start == 12 else 0
        walked.append((_LONG(window, start)[0], _HEAD(window, start)[0], more, position - start, length))
        position += length
    if len(_meta_runs) >= _MAX_LAYOUTS:
        _meta_runs.clear()
    _meta_runs[end] = _Run(walked)
    return values, end


class _Run:
    """Consecutive elements of a file: their headers, as numbers, and where the values lie that are wanted."""

    __slots__ = ("expected", "marks", "span", "unpack", "wanted")

    def __init__(self, elements: Sequence[_Header]) -> None:
        parts, expected = ["<"], []
        self.wanted: list[tuple[int, int, int]] = []
        self.marks: list[int] = []
        self.span = 0
        for key, first, more, head, length in elements:
            parts.append(f"Q{length}x" if head == 8 else f"QL{length}x")
            expected += [first] if head == 8 else [first, more]
            tag = _NOTED.get(key)
            if tag in WANTED or tag in _WANTED_META:
                self.wanted.append((tag, self.span + head, self.span + head + length))
            elif tag is not None:
                self.marks.append(tag)
            self.span += head + length
        self.unpack = struct.Struct("".join(parts)).unpack_from
        self.expected = tuple(expected)


class _Layout:
    """Runs of the file that was learnt last, by the tag they begin with."""

    __slots__ = ("patience", "runs")

    def __init__(self) -> None:
        self.runs: dict[int, _Run] = {}
        self.patience = 0

    def learn(self, elements: Sequence[_Header]) -> None:
        """Keep a file's headers; not again for a while, lest files that differ are learnt for nothing."""
        self.patience = _PATIENCE_FILES
        groups = [elements[start : start + _RUN_ELEMENTS] for start in range(0, len(elements), _RUN_ELEMENTS)]
        self.runs = {group[0][0]: _Run(group) for group in groups}


_Header = tuple[int, int, int, int, int]
"""Key, the first eight bytes of the header as a number, the other four if there are, its length, that of the value."""
_RUN_ELEMENTS = 16
_PATIENCE_FILES = 16
_MANY_STEPS = 48
"""Taking more elements one by one, a file is so different that what was learnt may have served its time."""
_MAX_LAYOUTS = 32
_layouts: dict[tuple[str, bytes], _Layout] = {}
_meta_runs: dict[int, _Run] = {}
"""The file meta information that was learnt last, by where it ends."""


def _layout_of(syntax: str, sop_class: bytes) -> _Layout:
    """What was learnt of files of this kind. Threads may share it: it is replaced as a whole."""
    layout = _layouts.get((syntax, sop_class))
    if layout is None:
        if len(_layouts) >= _MAX_LAYOUTS:
            _layouts.clear()
        layout = _layouts[syntax, sop_class] = _Layout()
    return layout


class _Scan:
    """A walk over the data set of an open file."""

    def __init__(self, descriptor: int, size: int, window: bytes, layout: _Layout) -> None:
        self._layout = layout
        self._descriptor = descriptor
        self._size = size
        self._window = window
        self._start = 0

    def _move(self, position: int) -> int:
        """Have the window hold at least a header from ``position`` on, if the file does; gives its place in it."""
        self._window = os.pread(self._descriptor, _WINDOW_BYTES, position)
        self._start = position
        return 0

    def top_level(self, position: int, *, implicit: bool) -> dict[int, bytes]:
        """Walk to the end of the file; gives the wanted values."""
        values: dict[int, bytes] = {}
        marks = set()
        size = self._size
        window, place = self._window, position
        layout = self._layout
        runs = layout.runs
        walked: list[_Header] | None = [] if layout.patience <= 0 else None
        steps = 0
        while position < size:
            if place + 12 > len(window) and self._start + len(window) < size:
                place = self._move(position)
                window = self._window
            run = runs.get(_LONG(window, place)[0])
            if (
                run is not None
                and walked is None
                and place + run.span <= len(window)
                and run.unpack(window, place) == run.expected
            ):
                for tag, start, end in run.wanted:
                    values[tag] = window[place + start : place + end]
                marks.update(run.marks)
                position += run.span
                place += run.span
                continue
            if implicit:
                key, length = _IMPLICIT_KEY(window, place)
                vr, head = 0, 8
                if key & 0xFFFF == 0xFFFE:
                    raise _NotUnderstood
            else:
                key, vr, length = _EXPLICIT_KEY(window, place)
                if vr in _SHORT:
                    head = 8
                elif vr in _LONGER:
                    length = _LONG(window, place + 8)[0]
                    head = 12
                else:
                    raise _NotUnderstood
            steps += 1
            if key in _NOTED:
                tag = _NOTED[key]
                if tag in WANTED:
                    if length > MAX_WANTED_BYTES:
                        raise _NotUnderstood
                    values[tag] = self._value(position + head, length)
                else:
                    marks.add(tag)
            if walked is not None:
                if length < _WINDOW_BYTES:
                    more = length if head == 12 else 0
                    walked.append((key, _HEAD(window, place)[0], more, head, length))
                else:
                    layout.learn(walked)
                    walked = None
            if length == UNDEFINED:
                if key == _PIXEL_DATA_KEY or vr in _MANY_BYTES:
                    position = self._skip_fragments(position + head)
                else:
                    position = self._skip_items(position + head, implicit=implicit or vr == _UN, depth=0)
                window, place = self._window, position - self._start
            else:
                head += length
                position += head
                place += head
        if position != size or (SAMPLES_PER_PIXEL in marks and not marks & PIXELS):
            raise _NotUnderstood
        if walked:
            layout.learn(walked)
        elif steps > _MANY_STEPS:
            layout.patience -= 1
        return values

    def _value(self, position: int, length: int) -> bytes:
        place = position - self._start
        if place + length > len(self._window):
            value = os.pread(self._descriptor, length, position)
        else:
            value = self._window[place : place + length]
        if len(value) < length:
            raise _NotUnderstood
        return value

    def _place(self, position: int) -> int:
        """Where the header at ``position`` is in the window, moved if need be."""
        place = position - self._start
        if position >= self._size:
            raise _NotUnderstood
        if place + 12 > len(self._window) and self._start + len(self._window) < self._size:
            return self._move(position)
        return place

    def _skip_fragments(self, position: int) -> int:
        """The end of encapsulated pixel data whose first item is at ``position`` (PS3.5 A.4)."""
        while True:
            place = self._place(position)
            group, element, length = _IMPLICIT(self._window, place)
            position += 8
            tag = group << 16 | element
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM or length == UNDEFINED:
                raise _NotUnderstood
            position += length

    def _skip_items(self, position: int, *, implicit: bool, depth: int) -> int:
        """The end of a sequence of undefined length whose first item is at ``position`` (PS3.5 7.5)."""
        if depth > MAX_DEPTH:
            raise _NotUnderstood
        while True:
            place = self._place(position)  # may move the window
            group, element, length = _IMPLICIT(self._window, place)
            position += 8
            tag = group << 16 | element
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM:
                raise _NotUnderstood
            if length != UNDEFINED:
                position += length
                continue
            while (next_position := self._skip_element(position, implicit=implicit, depth=depth)) > 0:
                position = next_position
            position = -next_position

    def _skip_element(self, position: int, *, implicit: bool, depth: int) -> int:
        """The end of the element of an item at ``position``, negative if it is the item's delimiter."""
        place = self._place(position)
        group, element, length = _IMPLICIT(self._window, place)
        tag, vr, head = group << 16 | element, b"", 8
        if tag == ITEM_END:
            return -(position + 8)
        if group == 0xFFFE:
            raise _NotUnderstood
        if not implicit:
            _, _, vr, length = _EXPLICIT(self._window, place)
            if vr in LONG_VRS:
                length = _LONG(self._window, place + 8)[0]
                head = 12
            elif vr not in SHORT_VRS:
                raise _NotUnderstood
        if length != UNDEFINED:
            return position + head + length
        if tag == _PIXEL_DATA or vr in _MANY_BYTES_VRS:
            return self._skip_fragments(position + head)
        return self._skip_items(position + head, implicit=implicit or vr == b"UN", depth=depth + 1)

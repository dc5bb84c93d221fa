"""Finds and rewrites what a data set says of other objects, at every depth.

Rules:

- Any UI value that is an old UID of the map is replaced, whatever its attribute: references sit in too many attributes,
  private ones included, to list them. The UIDs of frames of reference and of synchronization are left alone even if a
  device made them equal to a study's or series' UID: geometry does not change.
- References filed by study and series (evidence of KOS and SR, Common Instance Reference, RT) are filed anew: when some
  images of a series moved and others stayed, its item is split, and items of one study or series are joined.
- A Retrieve URL that names an old UID goes: it leads to the rejected object.
- Original Attributes (0400,0561) tell history; nothing in them changes.
- A private value that is an old UID as a whole, or a sequence by its bytes, is rewritten also when its VR is unknown
  (UN, as implicit VR files have it). An old UID inside any other value (a vendor's binary header, free text) stays:
  nothing says where such a value can be changed without breaking it. Those values are reported.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_sequence
from pydicom.filewriter import write_sequence
from pydicom.sequence import Sequence

from archsync.core.uid_map import InstanceUids, UidMap

_UID_TEXT = re.compile(rb"[0-2]\.[0-9][0-9.]{3,61}")
_ITEM_TAG = b"\xfe\xff\x00\xe0"

_SOP_INSTANCE, _STUDY, _SERIES = 0x00080018, 0x0020000D, 0x0020000E
_REFERENCED_INSTANCE = 0x00081155
_RT_REFERENCED_SERIES = 0x30060014
_RETRIEVE_URL = 0x00081190
_ORIGINAL_ATTRIBUTES = 0x04000561
_REFERENCED_SERIES, _REFERENCED_INSTANCES, _OTHER_STUDIES = 0x00081115, 0x0008114A, 0x00081200

# Frame of Reference UID and its kin, and the Synchronization Frame of Reference UID
_FRAMES = frozenset(
    {0x0018991E, 0x00200052, 0x00200200, 0x00209312, 0x00209313, 0x00640003, 0x30060024, 0x300600C2, 0x300A0675}
)
# Their Referenced SOP Instance UID names a study, a patient, a visit or a procedure step
_NOT_INSTANCES = frozenset({0x00081110, 0x00081111, 0x00081120, 0x00081125, 0x30060012, 0x00081100})
_INSTANCE_REFERENCES = frozenset({_REFERENCED_INSTANCE, 0x00081167, 0x00041511, 0x00200242})


@dataclass(slots=True)
class RewriteReport:
    """What came of a rewriting: how many values changed, and the paths of those that hold an old UID and stay."""

    changed: int = 0
    left: list[str] = field(default_factory=list)


def rewrite_references(dataset: Dataset, uid_map: UidMap, *, own: InstanceUids | None = None) -> RewriteReport:
    """Replace the old UIDs of ``uid_map`` in place: in all references, and the object's own three.

    ``own`` are its new ones, None: as the map says. An object that neither tells of keeps its three. Doing it twice
    changes nothing more.
    """
    own = own or uid_map.find_instance(_text(dataset, _SOP_INSTANCE))
    old_study = _text(dataset, _STUDY)
    # Others of its study moved with it, and the map may say of them only where they lie now.
    is_moved = own is not None and own.study_instance_uid != old_study
    rewriter = _Rewriter(uid_map, is_moved=is_moved)
    homes = rewriter.rewrite_children(dataset, "")
    rewriter.rewrite_values(dataset, "", skip={_SOP_INSTANCE, _STUDY, _SERIES})
    if own is not None:
        for tag, uid in (
            (_SOP_INSTANCE, own.sop_instance_uid), (_SERIES, own.series_instance_uid), (_STUDY, own.study_instance_uid)
        ):  # fmt: skip
            rewriter.report.changed += _set_uid(dataset, tag, uid)
    if rewriter.report.changed:
        _file_by_study(dataset, homes.get(_REFERENCED_SERIES), old_study=old_study, new_study=_text(dataset, _STUDY))
    return rewriter.report


def find_references(dataset: Dataset) -> set[str]:
    """The SOP Instance UIDs of the objects that a data set refers to, at every depth; its own is not among them.

    Studies, patients and procedure steps, which are referred to by the same attribute, are left out, and so is
    what Original Attributes say.
    """
    found: set[str] = set()
    _collect(dataset, found, is_instance=True)
    found.discard(_text(dataset, _SOP_INSTANCE))
    return found


def _collect(dataset: Dataset, found: set[str], *, is_instance: bool) -> None:
    for raw in list(dataset.values()):
        if raw.tag == _ORIGINAL_ATTRIBUTES:
            continue
        if raw.tag in _INSTANCE_REFERENCES:
            if is_instance or raw.tag != _REFERENCED_INSTANCE:
                found.update(uid for uid in _uids(dataset[raw.tag].value) if uid)
        elif _is_sequence(dataset, raw):
            for item in dataset[raw.tag].value:
                _collect(item, found, is_instance=raw.tag not in _NOT_INSTANCES)


# An item and where its instance lies now; None: it says nothing about instances of the map
_Placed = tuple[Dataset, InstanceUids | None]


class _Rewriter:
    def __init__(self, uid_map: UidMap, *, is_moved: bool) -> None:
        self._map = uid_map
        self._is_moved = is_moved
        self._study_of = {
            new.series_instance_uid: new.study_instance_uid for _, new in (*uid_map.pairs, *uid_map.former)
        }
        self.report = RewriteReport()

    def rewrite_children(self, dataset: Dataset, path: str) -> dict[int, list[_Placed]]:
        """Rewrite the sequences of a data set; gives their items, each with its home, by the sequence's tag."""
        placed: dict[int, list[_Placed]] = {}
        for raw in list(dataset.values()):
            tag = int(raw.tag)
            if tag == _ORIGINAL_ATTRIBUTES or not self._may_concern(raw):
                continue
            if not _is_sequence(dataset, raw) and not self._open_unknown(dataset, raw):
                continue
            element = dataset[raw.tag]
            before = self.report.changed
            items = [
                part
                for number, item in enumerate(element.value)
                for part in self._rewrite_item(item, f"{path}{_name(tag)}[{number}].")
            ]
            if self.report.changed != before:
                items = _join(items)
                element.value = Sequence([item for item, _ in items])
            placed[tag] = items
        return placed

    def rewrite_values(self, dataset: Dataset, path: str, *, skip: Iterable[int] = ()) -> None:
        """Replace old UIDs in the values of a data set, sequences apart."""
        for raw in list(dataset.values()):
            tag = int(raw.tag)
            if tag in _FRAMES or tag in skip or tag == _ORIGINAL_ATTRIBUTES or not self._may_concern(raw):
                continue
            if _is_sequence(dataset, raw):
                continue
            element = dataset[raw.tag]
            if element.VR == "UI":
                self._replace(element)
            elif tag == _RETRIEVE_URL:
                if self._holds(element, self._map.concerns):
                    del dataset[raw.tag]
                    self.report.changed += 1
            elif (new := self._whole_uid(element)) is not None:
                element.value = new
                self.report.changed += 1
            elif self._holds(element, self._map.__contains__):
                self.report.left.append(path + _name(tag))

    def _may_concern(self, element: DataElement | RawDataElement) -> bool:
        """False when nothing in an element can have to change; saves parsing sequences, which is the costly part."""
        if element.VR == "SQ" and not isinstance(element, RawDataElement):
            return True
        return self._holds(element, self._concerns)

    def _concerns(self, uid: str) -> bool:
        return self._map.concerns(uid) or (self._is_moved and self._map.find_instance(uid) is not None)

    @staticmethod
    def _holds(element: DataElement | RawDataElement, is_wanted: Callable[[str], bool]) -> bool:
        """True when such a UID stands anywhere in the element's value."""
        value = element.value
        if isinstance(value, bytes) and b"." not in value:
            return False  # no UID; most elements of most files
        values = value if isinstance(value, list) or hasattr(value, "append") else [value]
        return any(
            is_wanted(found.group().decode().rstrip("."))
            for text in values
            if isinstance(text, str | bytes)
            for found in _UID_TEXT.finditer(text if isinstance(text, bytes) else text.encode("ascii", "replace"))
        )

    def _open_unknown(self, dataset: Dataset, raw: DataElement | RawDataElement) -> bool:
        """Turn a value of unknown VR that is a list of items into the sequence it is (PS3.5 6.2.2); True if it was."""
        element = dataset[raw.tag]
        if element.VR != "UN" or not isinstance(element.value, bytes) or not element.value.startswith(_ITEM_TAG):
            return False
        value = element.value
        try:
            items = read_sequence(BytesIO(value), True, True, len(value), dataset.original_character_set)
            # What comes back byte for byte was understood.
            is_understood = _encode_items(items) == value
        except (OSError, ValueError, TypeError, KeyError, NotImplementedError, AttributeError, EOFError):
            return False
        if not is_understood:
            return False
        dataset[raw.tag] = DataElement(raw.tag, "SQ", items)
        return True

    def _whole_uid(self, element: DataElement) -> bytes | None:
        """The new value of an unknown one that is an old UID and nothing else."""
        if element.VR != "UN" or not isinstance(element.value, bytes):
            return None
        text = element.value.rstrip(b"\0 ")
        old = text.decode("ascii") if _UID_TEXT.fullmatch(text) else ""
        new = self._map.find(old)
        if new is None or new == old:
            return None
        return new.encode() + b"\0" * (len(new) % 2)

    def _replace(self, element: DataElement) -> None:
        old = list(_uids(element.value))
        new = [self._map.find(uid) or uid for uid in old]
        if new != old:
            self.report.changed += 1
            element.value = new if len(new) > 1 else new[0]

    def _rewrite_item(self, item: Dataset, path: str) -> list[_Placed]:
        home = self._map.find_instance(_text(item, _REFERENCED_INSTANCE))
        placed = self.rewrite_children(item, path)
        # RT objects name a study by Referenced SOP Instance UID
        study_tag = _REFERENCED_INSTANCE if _RT_REFERENCED_SERIES in item else _STUDY
        levels = {tag for tag in (study_tag, _SERIES) if tag in item}
        if home is not None:
            self.rewrite_values(item, path, skip={_STUDY, _SERIES})
            self._set_levels(item, levels - {_REFERENCED_INSTANCE}, study_tag, home)
            return [(item, home)]
        is_filed = any(place is not None for children in placed.values() for _, place in children)
        if not levels or not is_filed:
            self.rewrite_values(item, path)
            return [(item, self._bare_home(item, levels, study_tag))]
        self.rewrite_values(item, path, skip=levels)
        return self._split(item, placed, levels, study_tag)

    def _bare_home(self, item: Dataset, levels: set[int], study_tag: int) -> InstanceUids | None:
        """Where a series lies now that is named without its instances; read after its UIDs were replaced."""
        if _SERIES not in levels:
            return None
        series = _text(item, _SERIES)
        study = self._study_of.get(series)
        return None if study is None else InstanceUids(_text(item, study_tag) or study, series, "")

    def _set_levels(self, item: Dataset, levels: set[int], study_tag: int, home: InstanceUids) -> None:
        for tag in levels:
            uid = home.study_instance_uid if tag == study_tag else home.series_instance_uid
            self.report.changed += _set_uid(item, tag, uid)

    def _split(
        self, item: Dataset, placed: dict[int, list[_Placed]], levels: set[int], study_tag: int
    ) -> list[_Placed]:
        """Make one item of each study or series that the instances filed in ``item`` lie in now."""
        stays = ("", "")

        def key(home: InstanceUids | None) -> tuple[str, str]:
            if home is None:
                return stays
            return (
                home.study_instance_uid if study_tag in levels else "",
                home.series_instance_uid if _SERIES in levels else "",
            )

        homes: dict[tuple[str, str], InstanceUids | None] = {}
        for children in placed.values():
            for child, home in children:
                if home is not None or _is_reference(child):
                    homes.setdefault(key(home), home)
        # Children of sequences that hold no old UID were not looked at; they stay.
        for raw in item.values():
            if raw.tag not in placed and _is_sequence(item, raw) and any(map(_is_reference, item[raw.tag].value)):
                homes.setdefault(stays, None)
        parts: list[_Placed] = []
        for number, (wanted, home) in enumerate(homes.items()):
            part = item if number == len(homes) - 1 else copy.deepcopy(item)
            for raw in list(item.values()):
                if not _is_sequence(item, raw):
                    continue
                children = placed.get(int(raw.tag)) or [(child, None) for child in item[raw.tag].value]
                if not any(place is not None or _is_reference(child) for child, place in children):
                    continue
                kept = [child for child, place in children if key(place) == wanted]
                if kept:
                    part[raw.tag].value = Sequence(kept)
                else:
                    del part[raw.tag]
            if home is not None:
                self._set_levels(part, levels, study_tag, home)
            parts.append((part, home))
        return parts


def _join(items: list[_Placed]) -> list[_Placed]:
    """Join the items of one study or series, which a change of several instances left apart."""
    joined: list[_Placed] = []
    where: dict[tuple[str, str], Dataset] = {}
    for item, home in items:
        key = _filing_key(item)
        first = where.get(key) if key else None
        if first is None:
            if key:
                where[key] = item
            joined.append((item, home))
            continue
        for raw in item.values():
            if not _is_sequence(item, raw):
                continue
            mine = list(first[raw.tag].value) if raw.tag in first else []
            mine += [child for child in item[raw.tag].value if child not in mine]
            merged = [child for child, _ in _join([(child, None) for child in mine])]
            first[raw.tag] = DataElement(raw.tag, "SQ", Sequence(merged))
    return joined


def _filing_key(item: Dataset) -> tuple[str, str] | None:
    """Study and series under which an item files others; None for one that does not file."""
    if _RT_REFERENCED_SERIES in item:
        return _text(item, _REFERENCED_INSTANCE), ""
    if _REFERENCED_INSTANCE in item or not (_STUDY in item or _SERIES in item):
        return None
    return _text(item, _STUDY), _text(item, _SERIES)


def _file_by_study(dataset: Dataset, placed: list[_Placed] | None, *, old_study: str, new_study: str) -> None:
    """Keep Common Instance Reference (PS3.3 C.12.2) true: other studies' references are filed under their study.

    Moves items between Referenced Series (own study) and Studies Containing Other Referenced Instances.
    """
    if placed is None:
        placed = [(item, None) for item in dataset[_REFERENCED_SERIES].value] if _REFERENCED_SERIES in dataset else []
    own: list[Dataset] = []
    others: list[_Placed] = []
    for item, home in placed:
        study = old_study if home is None else home.study_instance_uid
        # Presentation states list images by another attribute and have no place for those of other studies.
        if study == new_study or _REFERENCED_INSTANCES not in item:
            own.append(item)
        else:
            other = Dataset()
            other.add_new(_REFERENCED_SERIES, "SQ", [item])
            other.add_new(_STUDY, "UI", study)
            others.append((other, None))
    elsewhere = list(dataset[_OTHER_STUDIES].value) if _OTHER_STUDIES in dataset else []
    for item in elsewhere:
        if _text(item, _STUDY) == new_study and _REFERENCED_SERIES in item:
            own += item[_REFERENCED_SERIES].value
        else:
            others.append((item, None))
    _put_items(dataset, _REFERENCED_SERIES, [item for item, _ in _join([(item, None) for item in own])])
    _put_items(dataset, _OTHER_STUDIES, [item for item, _ in _join(others)])


def _put_items(dataset: Dataset, tag: int, items: list[Dataset]) -> None:
    if items:
        dataset.add_new(tag, "SQ", items)
    elif tag in dataset:
        del dataset[tag]


def _is_reference(item: Dataset) -> bool:
    return _REFERENCED_INSTANCE in item or _SERIES in item


def _is_sequence(dataset: Dataset, raw: DataElement | RawDataElement) -> bool:
    if raw.VR is None or raw.VR == "UN":  # implicit VR: the dictionary knows
        return dataset[raw.tag].VR == "SQ"
    return raw.VR == "SQ"


def _uids(value: object) -> Iterator[str]:
    if value is None:
        return
    if isinstance(value, str):
        yield str(value)
    elif isinstance(value, Iterable):
        yield from map(str, value)


def _text(dataset: Dataset, tag: int) -> str:
    return str(dataset[tag].value or "") if tag in dataset else ""


def _set_uid(dataset: Dataset, tag: int, uid: str) -> bool:
    """Set a UID; True if it was another."""
    if _text(dataset, tag) == uid:
        return False
    dataset.add_new(tag, "UI", uid)
    return True


def _encode_items(items: Sequence) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = buffer.is_implicit_VR = True
    write_sequence(buffer, DataElement(_REFERENCED_SERIES, "SQ", items), ["iso8859"])
    return buffer.getvalue()


def _name(tag: int) -> str:
    return keyword_for_tag(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"

"""The simulated archive's index: answers Study Root queries (PS3.4 C.6.2) from the headers of what is stored.

Patients are not in it: who a study's patient is changes by ADT, so they are asked for when a query is answered.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator

from pydicom.dataset import Dataset

_LEVELS = ("STUDY", "SERIES", "IMAGE")
_UNIQUE_KEYS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_KEPT = {
    "STUDY": (
        "StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyDescription",
        "ReferringPhysicianName",
    ),
    "SERIES": ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription"),
    "IMAGE": ("SOPInstanceUID", "SOPClassUID", "InstanceNumber"),
}  # fmt: skip


class Catalog:
    """Studies, series and instances by their UIDs. Not for several threads at once."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[tuple[str, ...], Dataset]] = {level: {} for level in _LEVELS}

    def add(self, header: Dataset) -> None:
        """Index an instance by its header; adding it again changes nothing but the attributes."""
        key: tuple[str, ...] = ()
        entry = Dataset()
        for level in _LEVELS:
            key = (*key, str(header[_UNIQUE_KEYS[level]].value))
            for keyword in _KEPT[level]:
                if keyword in header:
                    entry[keyword] = header[keyword]
            self._entries[level][key] = Dataset(entry)

    def remove(self, sop_instance_uids: Collection[str]) -> None:
        """Forget instances, and series and studies that have none left; what is not indexed is passed over."""
        kept = {key: entry for key, entry in self._entries["IMAGE"].items() if key[-1] not in sop_instance_uids}
        self._entries["IMAGE"] = kept
        for level, depth in (("STUDY", 1), ("SERIES", 2)):
            left = {key[:depth] for key in kept}
            self._entries[level] = {key: entry for key, entry in self._entries[level].items() if key in left}

    def list_instances(self) -> list[tuple[str, str, str]]:
        """Study, Series and SOP Instance UID of all that is shown."""
        return [(study, series, instance) for study, series, instance in self._entries["IMAGE"]]

    def find(self, query: Dataset, patient_of: Callable[[str], Dataset]) -> list[Dataset] | None:
        """Matches with the keys asked for, or None when the query has no level of the Study Root model.

        ``patient_of`` gives the patient's attributes by Study Instance UID.
        """
        level = str(query.get("QueryRetrieveLevel", ""))
        if level not in _LEVELS:
            return None
        studies = _wanted(query.get("StudyInstanceUID"))  # looked at first, as it rules out nearly everything
        answers = []
        for key, indexed in self._entries[level].items():
            if studies and key[0] not in studies:
                continue
            entry = Dataset(indexed)
            entry.update(patient_of(key[0]))
            if _matches(entry, query):
                answers.append(self._answer(entry, query, level))
        return answers

    def _answer(self, entry: Dataset, query: Dataset, level: str) -> Dataset:
        answer = Dataset()
        for element in query:
            if element.keyword in entry:
                answer[element.keyword] = entry[element.keyword]
            elif element.keyword in _COUNTS and level == "STUDY":
                setattr(answer, element.keyword, self._count(str(entry.StudyInstanceUID), _COUNTS[element.keyword]))
            elif element.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet"):
                answer[element.tag] = type(element)(element.tag, element.VR, None)
        answer.QueryRetrieveLevel = level
        answer.SpecificCharacterSet = "ISO_IR 192"  # a study's own set need not have the letters of a corrected name
        return answer

    def _count(self, study_instance_uid: str, level: str) -> int:
        return sum(key[0] == study_instance_uid for key in self._entries[level])


_COUNTS = {"NumberOfStudyRelatedSeries": "SERIES", "NumberOfStudyRelatedInstances": "IMAGE"}


def _matches(entry: Dataset, query: Dataset) -> bool:
    """Matching by single value, list of UIDs, wild card and range (PS3.4 C.2.2.2); keys not indexed match all."""
    return all(
        _value_matches(str(entry[element.keyword].value or ""), wanted, is_date=element.VR in ("DA", "TM"))
        for element in query
        if element.keyword in entry
        for wanted in [_wanted(element.value)]
        if any(wanted)
    )


def _wanted(value: object) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return [str(value)]
    return [str(part) for part in _parts(value)]


def _parts(value: object) -> Iterator[object]:
    """The values of a multi-valued element; a person name iterates over its letters, so it stands for itself."""
    if type(value).__name__ == "PersonName":
        yield value
    else:
        yield from value  # type: ignore[misc]


def _value_matches(value: str, wanted: list[str], *, is_date: bool) -> bool:
    if is_date and "-" in wanted[0]:
        first, _, last = wanted[0].partition("-")
        return (not first or value >= first) and (not last or value <= last)
    return any(fnmatch.fnmatchcase(value, pattern.replace("[", "[[]")) for pattern in wanted)
